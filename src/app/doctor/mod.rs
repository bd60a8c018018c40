//! `mcp-auth-proxy doctor URL`: looks at a public MCP server as each known client does, and says what would fail for which.
//!
//! - [`clients`] – the known clients; [`findings`] – everything that can be found; [`report`] – what was found
//! - [`examination`] – what the steps share
//! - [`link`], [`network`], [`certificate`], [`probe`] – from a URL to answers; [`in_between`] – who else may have answered
//! - [`challenge`], [`resource`], [`server`], [`registration`], [`authorization`], [`token`], [`cors`] – the steps of a client
//! - [`events`] – what a proxy in between does to event streams, where the server is this program or there is a token

mod authorization;
mod certificate;
mod challenge;
mod clients;
mod cors;
mod events;
mod examination;
mod findings;
mod in_between;
mod link;
mod network;
mod probe;
mod registration;
mod report;
mod resource;
mod server;
mod token;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::clock::Clock;
use crate::flags::{OwnOptions, Settings};
use clients::{CLIENTS, KnownClient};
use examination::Examination;
use findings::{CLOCK_SKEW, SLOW};
use link::Link;
use probe::{Prober, Reply};
use report::Report;
use server::ServerMetadata;

/// How much clocks may differ, in seconds.
const MAX_SKEW: u64 = 60;
/// An answer that takes longer is too slow.
const SLOW_AFTER: Duration = Duration::from_secs(3);

/// Looks at the server at `url`, prints the report and returns the exit code: 0 if every client gets as far as the sign-in, 2
/// if one does not or the server is not safe, 1 for warnings with `--strict`. The error is about the command itself.
pub fn run(settings: &Settings, url: &str, options: &OwnOptions) -> Result<u8, String> {
    let link =
        Link::parse(url).map_err(|why| format!("doctor: {why}; it must look like https://mcp.example.com/mcp"))?;
    let clients = chosen(&options.all("client"))?;
    let token = options.get("token-file").map(read_token).transpose()?;
    let ca_file = settings.ca_file.as_ref().map(PathBuf::from);
    crate::net::tls::verifier("--ca-file (CA_FILE)", ca_file.as_deref())?;
    let mut exam = Examination {
        report: Report::new(link.to_string(), clients, options.has("client")),
        typed: link.clone(),
        url: link,
        prober: Prober::new(),
        ca_file,
        now: Clock::system().now(),
        is_public: false,
        is_ours: false,
        token,
        may_register: !options.has("no-registration"),
    };
    look(&mut exam);
    exam.report.hide(exam.token.as_deref());
    let text = if options.has("json") { format!("{:#}\n", exam.report.json()) } else { exam.report.text() };
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader such as `head` may close the pipe early.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(format!("the report can't be written: {e}"));
        }
        _ => {}
    }
    Ok(exam.report.exit_code(options.has("strict")))
}

/// The steps of a client, in its order, as far as they lead.
fn look(exam: &mut Examination) {
    let url = exam.url.clone();
    if !network::reach(exam, &url, true) {
        return exam.report.stop("there is no connection");
    }
    step(exam, |exam| events::ask_echo(exam, &url));
    let Some(challenge) = step(exam, challenge::look).flatten() else {
        return exam.report.stop("without a challenge, no client goes on");
    };
    tell_clock(exam, &challenge.reply);
    step(exam, events::with_token);
    let issuer = step(exam, |exam| resource::look(exam, &challenge)).flatten();
    match issuer.and_then(|issuer| step(exam, |exam| server::look(exam, &issuer)).flatten()) {
        Some(metadata) => at_authorization_server(exam, &metadata),
        None => {
            if challenge.reply.status == StatusCode::UNAUTHORIZED {
                exam.report.stop("without these documents, no client goes on");
            }
            step(exam, |exam| cors::look(exam, None));
        }
    }
    tell_times(exam);
}

fn at_authorization_server(exam: &mut Examination, metadata: &ServerMetadata) {
    let mut registered = Vec::new();
    step(exam, |exam| registered = registration::look(exam, metadata));
    step(exam, |exam| authorization::look(exam, metadata, &registered));
    step(exam, |exam| token::look(exam, metadata, &registered));
    step(exam, |exam| cors::look(exam, Some(metadata)));
    registration::take_back(exam, registered);
}

/// Takes a step, unless the look is over. What a step finds that is cut short is not true.
fn step<R>(exam: &mut Examination, take: impl FnOnce(&mut Examination) -> R) -> Option<R> {
    let mark = exam.report.mark();
    let result = exam.prober.is_over().is_none().then(|| take(exam));
    if let Some(why) = exam.prober.is_over() {
        exam.report.forget_since(mark);
        exam.report.stop(why);
        return None;
    }
    result
}

fn tell_clock(exam: &mut Examination, reply: &Reply) {
    let Ok(theirs) = httpdate::parse_http_date(reply.field("date")) else { return };
    let theirs = theirs.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let skew = theirs.abs_diff(exam.now);
    if skew > MAX_SKEW {
        let seen = format!("its clock and that of this machine are {skew} seconds apart");
        exam.report.found("clock", &CLOCK_SKEW, seen);
    }
}

fn tell_times(exam: &mut Examination) {
    let Some((what, took)) = exam.prober.slowest.clone() else { return };
    let seen = format!("the slowest answer took {} ms: {what}", took.as_millis());
    match took > SLOW_AFTER {
        true => exam.report.found("time", &SLOW, seen),
        false => exam.report.good("time", seen),
    }
}

/// The clients that `--client` names; all if it was not typed.
fn chosen(names: &[String]) -> Result<Vec<&'static KnownClient>, String> {
    let find = |name: &String| {
        let known = CLIENTS.iter().find(|client| client.name.eq_ignore_ascii_case(name));
        let all = || CLIENTS.iter().map(|client| client.name).collect::<Vec<_>>().join(", ");
        known.ok_or_else(|| format!("--client: there is no client '{name}'; known are {}", all()))
    };
    match names {
        [] => Ok(CLIENTS.iter().collect()),
        names => names.iter().map(find).collect(),
    }
}

fn read_token(path: &str) -> Result<String, String> {
    let text = match path {
        "-" => std::io::read_to_string(std::io::stdin()),
        path => std::fs::read_to_string(path),
    };
    let text = text.map_err(|e| format!("--token-file: {path} can't be read: {e}"))?;
    let token = text.trim();
    match !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(token.to_string()),
        false => Err(format!("--token-file: {path} does not hold one token")),
    }
}
