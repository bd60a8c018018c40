//! Requests that the proxy sends on its own behalf: which MCP revisions a process supports, and which tools it has.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lock::Unpoisoned;
use crate::mcp::jsonrpc::{self, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND};
use crate::mcp::message::{Kind, Message};
use crate::net::cancellation::Cancellation;
use crate::tokens::random_name;
use crate::upstream::stdio::fields::{CLIENT_CAPABILITIES, HEADER_MISMATCH, PROTOCOL_VERSION};
use crate::upstream::stdio::mux::shared_process::SharedProcess;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::inbox::{Listener, MessageSink};
use crate::upstream::stdio::process::lines::TooLong;
use crate::upstream::stdio::waiting::wait_for;
use crate::wake::Waker;

/// The first modern MCP revision.
pub(crate) const REVISION: &str = "2026-07-28";
/// JSON-RPC error codes: missing capability, unsupported protocol version.
pub(crate) const MISSING_CAPABILITY: i32 = -32021;
pub(crate) const UNSUPPORTED_VERSION: i32 = -32022;
/// How long the server may take for each page of `tools/list`. After that, calls of tools that are not listed yet are
/// forwarded without comparing their header fields.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages of tools that are read.
const MAX_PAGES: usize = 32;

/// What a child answered to the probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Revisions {
    /// It supports modern revisions: those that it listed (empty if it listed none).
    Modern(Arc<[String]>),
    /// It answered something else.
    Legacy,
    /// It did not answer.
    Silent,
}

/// Probes which revisions a process supports, within `patience`. The flag is false if the answer is an error that may
/// be temporary.
pub(crate) fn probe(
    shared: &Arc<SharedProcess>,
    owner: &Owner,
    patience: Duration,
    cancellation: &Cancellation,
) -> io::Result<(Revisions, bool)> {
    let answer = ask(shared, owner, "server/discover", json!({}), patience, cancellation)?;
    let Some(answer) = answer else { return Ok((Revisions::Silent, true)) };
    let Ok(message) = Message::parse(&answer) else { return Ok((Revisions::Silent, true)) };
    Ok(match jsonrpc::error_code(&answer) {
        Some(HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION) => (Revisions::Modern(Arc::default()), true),
        Some(code) => (Revisions::Legacy, matches!(code, METHOD_NOT_FOUND | INVALID_PARAMS | INVALID_REQUEST)),
        None => {
            let versions = message.outcome(&["supportedVersions"]);
            let is_modern = versions.is_some() || message.outcome(&["resultType"]).is_some();
            let versions = versions.and_then(|raw| serde_json::from_str::<Vec<String>>(raw.get()).ok());
            (if is_modern { Revisions::Modern(versions.unwrap_or_default().into()) } else { Revisions::Legacy }, true)
        }
    })
}

/// The results of `tools/list`, page by page.
pub(crate) fn list_tools(shared: &Arc<SharedProcess>, owner: &Owner, cancellation: &Cancellation) -> Vec<String> {
    let (mut pages, mut params) = (Vec::new(), json!({}));
    while pages.len() < MAX_PAGES {
        let Ok(Some(answer)) = ask(shared, owner, "tools/list", params, LIST_TIMEOUT, cancellation) else { break };
        let Some(page) = Message::parse(&answer).ok().and_then(|m| Some(m.result()?.get().to_string())) else { break };
        let next = serde_json::from_str::<Value>(&page).unwrap_or_default()["nextCursor"].take();
        pages.push(page);
        if !next.is_string() {
            break;
        }
        params = json!({"cursor": next});
    }
    pages
}

/// Sends a request of the proxy's own. Returns `None` if no answer comes within `patience`, or the process has ended or
/// does not read. Fails if the wait is cancelled, for example because the client went away.
fn ask(
    shared: &Arc<SharedProcess>,
    owner: &Owner,
    method: &str,
    mut params: Value,
    patience: Duration,
    cancellation: &Cancellation,
) -> io::Result<Option<String>> {
    params["_meta"] = json!({PROTOCOL_VERSION: REVISION, CLIENT_CAPABILITIES: {},
        "io.modelcontextprotocol/clientInfo": {"name": "mcp-auth-proxy", "version": env!("CARGO_PKG_VERSION")}});
    let request = json!({"jsonrpc": "2.0", "id": random_name(), "method": method, "params": params});
    let question = Arc::new(OwnQuestion { answer: Mutex::default(), waker: Waker::new()? });
    let Some(handle) = shared.attach(&owner.user, question.clone()) else { return Ok(None) };
    if handle.send(request.to_string().into_bytes()).is_err() {
        return Ok(None);
    }
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = question.answer().take() {
            return Ok(answer);
        }
        match wait_for(&question.waker, deadline.saturating_duration_since(Instant::now()), cancellation) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(None),
            other => other?,
        }
    }
}

/// Receives the answer to a request of the proxy's own.
struct OwnQuestion {
    /// `Some(None)` when there will be no answer.
    answer: Mutex<Option<Option<String>>>,
    waker: Waker,
}

impl OwnQuestion {
    fn learn(&self, answer: Option<String>) {
        self.answer().get_or_insert(answer);
        self.waker.wake();
    }

    fn answer(&self) -> MutexGuard<'_, Option<Option<String>>> {
        self.answer.lock().unpoisoned()
    }
}

impl Listener for OwnQuestion {
    fn line(&self, line: Vec<u8>) {
        let Ok(text) = String::from_utf8(line) else { return };
        if Message::parse(&text).is_ok_and(|m| matches!(m.kind, Kind::Response { .. })) {
            self.learn(Some(text));
        }
    }

    fn long_line(&self, _: &TooLong) {}

    fn ended(&self, _: Duration) {
        self.learn(None);
    }

    fn name(&self) -> String {
        "question".into()
    }
}
