//! Warnings in the log, at the start, about likely mistakes in the configuration.

use std::ffi::OsString;
use std::path::Path;

use super::config::Config;
use super::config::tls;
use super::listen::Ports;
use crate::flags;

/// The first argument of `command` that is a directory containing the data directory `data`.
fn published_data(command: &[OsString], data: &Path) -> Option<String> {
    let data = data.canonicalize().ok()?;
    let holds = |word: &OsString| {
        let path = Path::new(word).canonicalize().ok()?;
        (path.is_dir() && data.starts_with(path)).then(|| word.to_string_lossy().into_owned())
    };
    command.iter().skip(1).find_map(holds)
}

/// Warns about environment variables that look like options of this program but have no effect.
pub(super) fn warn_of_lookalikes() {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (variable, advice) in flags::lookalikes(names) {
        log::warn!(variable = variable.as_str(), advice = advice.as_str(); "a variable of the environment looks like an option of this program, but is none: it has no effect");
    }
}

/// Logs what is probably wrong in `config`. `is_unsure` is true if the external URL or the listen address was not
/// given.
pub(super) fn warn_of_traps(config: &Config, ports: &Ports, is_unsure: bool) {
    if let Some(notice) = tls::notice(&config.tls_notice) {
        log::info!("{notice}");
    }
    if config.stdio.as_ref().is_some_and(|s| s.user.is_none()) {
        log::warn!(
            "the MCP server runs as the same user as this proxy: if somebody can make it read any file, it can read {} and forge tokens; give it a user of its own with --stdio-user (STDIO_USER)",
            config.data_path.join("secret").display()
        );
    }
    if let Some(stdio) = &config.stdio
        && let Some(shown) = published_data(&stdio.command, &config.data_path)
    {
        log::warn!(directory = shown.as_str();
            "the MCP server is given a directory that has the data of this proxy in it: whoever may use the server may read the key that signs tokens; publish another directory, or keep the data elsewhere with --data-path (DATA_PATH)");
    }
    let external = &config.external;
    if !external.secure && !external.is_loopback() {
        log::warn!(url = external.origin.as_str(); "--external-url (EXTERNAL_URL) is plain http: passwords and tokens can be read on the way; use https");
    }
    let Ok(address) = ports.plain.local_addr() else { return };
    let port = address.port();
    // If the port serves other machines, it may be published under another number, as with containers. So compare the
    // two ports only where clients connect directly.
    let is_direct = is_unsure || (address.ip().is_loopback() && external.is_loopback());
    if is_direct && !external.secure && external.port != port {
        log::warn!(
            "--external-url (EXTERNAL_URL) is {}, but the port is {port}: clients will look in the wrong place; did you mean --external-url http://{}:{port}, or --listen :{} (LISTEN)?",
            external.origin,
            external.host,
            external.port
        );
    }
}
