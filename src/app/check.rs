//! `mcp-auth-proxy check`: looks at everything that serving needs, and changes nothing.

use std::io::Write;
use std::net::ToSocketAddrs;

use super::config::Config;
use super::config::servers::{Backend, ServerConfig};
use super::healthcheck;
use super::listen::{PassedSockets, listen};
use super::warnings::{lookalikes, traps};
use crate::clock::Clock;
use crate::data_dir;
use crate::flags::Settings;
use crate::http::client::{FETCH_TIMEOUT, Fetcher};
use crate::login::providers::Providers;
use crate::tls::config::{Source, TlsConfig};
use crate::tls::files;
use crate::tokens::{Keys, Secret};
use crate::upstream::Upstream;
use crate::upstream::http::HttpUpstream;
use crate::upstream::stdio;
use crate::url::Listen;

/// What was found, and how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Good,
    Warning,
    Failure,
}

struct Report {
    worst: Verdict,
}

impl Report {
    /// Prints a line: what was looked at, and what was found.
    fn say(&mut self, verdict: Verdict, what: &str, found: &str) {
        self.worst = self.worst.max(verdict);
        let word = match verdict {
            Verdict::Good => "ok  ",
            Verdict::Warning => "warn",
            Verdict::Failure => "fail",
        };
        let line: String = format!("{what}: {found}").chars().filter(|c| !c.is_control()).collect();
        // A reader such as `head` may close the pipe early.
        let _ = writeln!(std::io::stdout(), "{word}  {line}");
    }

    fn result(&mut self, what: &str, found: Result<String, String>) {
        match found {
            Ok(found) => self.say(Verdict::Good, what, &found),
            Err(why) => self.say(Verdict::Failure, what, &why),
        }
    }
}

/// Checks what `settings` name, and prints a line for each. Returns the exit code: 0 if it can be served, 1 for warnings if
/// `is_strict`, 2 if something would fail.
pub fn run(settings: Settings, is_strict: bool) -> u8 {
    let mut report = Report { worst: Verdict::Good };
    for (variable, advice) in lookalikes() {
        report.say(Verdict::Warning, &variable, &format!("it has no effect: {advice}"));
    }
    let is_running = healthcheck::run(&settings, false).is_ok();
    match Config::for_serving(settings) {
        Err(why) => report.say(Verdict::Failure, "configuration", &why),
        Ok(config) => look(&mut report, &config, is_running),
    }
    match report.worst {
        Verdict::Failure => 2,
        Verdict::Warning if is_strict => 1,
        _ => 0,
    }
}

fn look(report: &mut Report, config: &Config, is_running: bool) {
    report.say(Verdict::Good, "configuration", "the options fit together");
    for note in config.notes.iter().filter(|note| note.level == log::Level::Warn) {
        report.say(Verdict::Warning, "servers", &note.text);
    }
    traps(config).iter().for_each(|trap| report.say(Verdict::Warning, "configuration", trap));
    let data = data_dir::inspect(&config.data_path);
    report.result("data directory", data.map(|found| format!("{}: {found}", config.data_path.display())));
    port(report, "--listen (LISTEN)", config.listen, is_running);
    if let Some(tls) = &config.tls {
        port(report, "--tls-listen (TLS_LISTEN)", tls.listen, is_running);
    }
    certificate(report, config);
    name(report, config);
    providers(report, config);
    config.servers.all.iter().for_each(|server| upstream(report, config, server));
}

fn port(report: &mut Report, option: &str, address: Listen, is_running: bool) {
    match listen(option, address, &mut PassedSockets::default()) {
        Ok(_) => report.say(Verdict::Good, option, "the port is free"),
        Err(_) if is_running => report.say(Verdict::Good, option, "the proxy of this data directory is running"),
        Err(why) => report.say(Verdict::Failure, "port", &why),
    }
}

fn certificate(report: &mut Report, config: &Config) {
    let Some(TlsConfig { source, .. }) = &config.tls else { return };
    match source {
        Source::Files(source) => match source.load() {
            Err(why) => report.say(Verdict::Failure, "certificate", &why),
            Ok(pair) => {
                let traps = files::traps(&pair, &config.external, Clock::system().now());
                let until = format!("it is valid until {}", files::date(pair.info.not_after));
                report.say(Verdict::Good, "certificate", &until);
                traps.iter().for_each(|trap| report.say(Verdict::Warning, "certificate", trap));
            }
        },
        Source::Acme(_) => report.say(Verdict::Good, "certificate", "it will be obtained when the proxy starts"),
    }
}

/// Does the name of the external URL lead anywhere?
fn name(report: &mut Report, config: &Config) {
    let external = &config.external;
    if external.is_loopback() || external.is_address() {
        return;
    }
    match (external.host.as_str(), external.port).to_socket_addrs() {
        Ok(found) => {
            let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
            addresses.sort();
            addresses.dedup();
            report.say(Verdict::Good, "name", &format!("{} is {}", external.host, addresses.join(", ")));
        }
        Err(_) => report.say(
            Verdict::Warning,
            "name",
            &format!(
                "{} of --external-url (EXTERNAL_URL) leads to no address from here: clients need an entry in DNS",
                external.host
            ),
        ),
    }
}

fn providers(report: &mut Report, config: &Config) {
    let fetcher = Fetcher::new(config.outbound_tls.clone(), config.outbound_proxies.clone(), FETCH_TIMEOUT);
    let keys = Keys::new(&config.external.origin, &Secret::generate(), &[]);
    let providers = Providers::new(config.providers.clone(), fetcher, &keys);
    providers.look();
    for provider in providers.all() {
        match provider.is_down() {
            false => report.say(Verdict::Good, "provider", &format!("{} is configured", provider.label)),
            true => report.say(
                Verdict::Warning,
                "provider",
                &format!("{} can't be reached, so nobody can sign in with it", provider.label),
            ),
        }
    }
}

fn upstream(report: &mut Report, config: &Config, server: &ServerConfig) {
    let what = if server.name.is_empty() { "server".into() } else { format!("server '{}'", server.name) };
    let found = match &server.backend {
        Backend::Stdio(stdio) => stdio::check(stdio),
        Backend::Http(http) => HttpUpstream::new(http.clone(), &config.external)
            .and_then(|upstream| upstream.check().map_err(|trouble| format!("{} ({})", trouble.what, trouble.seen))),
    };
    let shown = server.shown();
    match found {
        Ok(()) => report.say(Verdict::Good, &what, &format!("{shown} answers initialize")),
        // The proxy starts without it, and its clients get an error until it answers.
        Err(why) => report.say(Verdict::Warning, &what, &format!("{shown}: {why}")),
    }
}
