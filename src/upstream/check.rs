//! Checks at startup whether there is an MCP server, so that the operator learns of a problem before the first user
//! does.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;

use crate::http::client::{Client, ClientError, Incoming, Outgoing};
use crate::http::h1::head::Framing;
use crate::net::cancellation::Cancellation;

/// The `id` of the check's request; no other request has it.
pub(super) const ID: &str = "mcp-auth-proxy-check";
/// How long an answer may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the body of an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest text that a server says about itself, in characters.
const MAX_ABOUT: usize = 1_000;
/// Most bytes of an answer that are read.
const ENOUGH: usize = 64 << 10;
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// What is wrong with an MCP server.
#[derive(Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it is and what to do: a sentence for the log.
    pub what: &'static str,
    /// What was seen.
    pub seen: String,
}

/// The `initialize` request of the check.
pub(super) fn initialize() -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{{"jsonrpc":"2.0","id":"{ID}","method":"initialize","params":{{"protocolVersion":"2025-06-18","capabilities":{{}},"clientInfo":{{"name":"mcp-auth-proxy","version":"{version}"}}}}}}"#
    )
    .into_bytes()
}

/// Does `text` contain a JSON-RPC response, alone or in a server-sent event? An echo of the request does not count.
pub(super) fn has_response(text: &[u8]) -> bool {
    let has = |key: &[u8]| text.windows(key.len()).any(|w| w == key);
    has(br#""jsonrpc""#) && (has(br#""result""#) || has(br#""error""#))
}

/// What an MCP server says about itself in the answer to `initialize`, which is in `text` alone or in a server-sent event:
/// its instructions, or else its description or title.
pub(super) fn about(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.lines().map(|line| line.strip_prefix("data:").unwrap_or(line).trim());
    let answer = lines.filter(|line| line.starts_with('{')).find_map(|line| serde_json::from_str::<Value>(line).ok());
    let answer = answer.or_else(|| serde_json::from_str(text).ok())?;
    let result = answer.get("result")?;
    let info = |name: &str| result.pointer(&format!("/serverInfo/{name}")).and_then(Value::as_str);
    let said = result.get("instructions").and_then(Value::as_str);
    let said = said.or_else(|| info("description")).or_else(|| info("title"))?;
    Some(said.chars().take(MAX_ABOUT).collect())
}

/// Asks the server behind `client`: Streamable HTTP at `endpoint`, else HTTP+SSE at `stream`. `fixed` are the fields that
/// every request has. Returns what the server says about itself.
pub(super) fn check(
    client: &Arc<Client>,
    endpoint: &str,
    stream: &str,
    fixed: &HeaderMap,
) -> Result<Option<String>, Trouble> {
    let mut fields = fixed.clone();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    let answer = ask(client, &Method::POST, endpoint, &fields, &initialize())?;
    let (status, session) = (answer.status, answer.fields.get(SESSION).cloned());
    if status == StatusCode::UNAUTHORIZED {
        return Err(Trouble {
            what: "the MCP server wants a credential: give it with --proxy-bearer-token (PROXY_BEARER_TOKEN) or --proxy-headers (PROXY_HEADERS); until then clients get 502",
            seen: status.to_string(),
        });
    }
    let is_redirect = status.is_redirection();
    let text = if is_redirect { Vec::new() } else { beginning(answer) };
    let speaks = has_response(&text);
    if let Some(session) = session {
        let mut fields = fixed.clone();
        fields.insert(SESSION, session);
        fields.insert(VERSION, HeaderValue::from_static("2025-06-18"));
        let _ = ask(client, &Method::DELETE, endpoint, &fields, b"");
    }
    if speaks || is_redirect {
        return Ok(about(&text));
    }
    let mut fields = fixed.clone();
    fields.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    let older = ask(client, &Method::GET, stream, &fields, b"")?;
    let kind = older.fields.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if older.status.is_success() && kind.starts_with(b"text/event-stream") {
        return Ok(None);
    }
    Err(Trouble {
        what: "the server at the upstream URL answers, but it does not speak MCP at this path: give the URL with the path of its MCP endpoint, such as http://127.0.0.1:3001/mcp or, for an older server, …/sse",
        seen: format!("POST {endpoint}: {status}, GET {stream}: {}", older.status),
    })
}

/// The body, until a JSON-RPC response has been seen, or until the limit of time or size.
fn beginning(mut answer: Incoming) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    answer.body.set_deadline(deadline);
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while text.len() < ENOUGH && !(has_response(&text) && is_whole(&text)) {
        match answer.body.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(n) => text.extend_from_slice(&piece[..n]),
        }
    }
    text
}

/// Does it end where a response ends? The one in an event ends with an empty line; any other with its brace.
fn is_whole(text: &[u8]) -> bool {
    text.ends_with(b"\n\n") || text.ends_with(b"\r\n\r\n") || text.trim_ascii_end().ends_with(b"}")
}

fn ask(
    client: &Arc<Client>,
    method: &Method,
    target: &str,
    fields: &HeaderMap,
    body: &[u8],
) -> Result<Incoming, Trouble> {
    let framing = if body.is_empty() { Framing::None } else { Framing::Length(body.len() as u64) };
    let outgoing = Outgoing {
        method,
        target,
        fields,
        held: body,
        rest: None,
        framing,
        cancellation: Cancellation::none(),
        is_repeatable: &|| true,
    };
    client.exchange(outgoing).map_err(|error| Trouble {
        what: match &error {
            ClientError::UnknownHost | ClientError::Connect(_) | ClientError::ConnectTimeout => {
                "the MCP server can't be reached: start it, or correct the upstream URL; until then clients get 502"
            }
            ClientError::AnswerTimeout => {
                "the MCP server takes a connection but does not answer: is it busy, or something else than an MCP server?"
            }
            ClientError::Io(e) if e.kind() != std::io::ErrorKind::InvalidData => {
                "the MCP server takes a connection but breaks it off without an answer: its own log may say why"
            }
            _ => "the server at the upstream URL does not answer with HTTP/1.1: is the scheme right, http:// or https://?",
        },
        seen: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_about_itself_is_found_and_cut() {
        let result = |inner: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"result":{inner}}}"#);
        for (inner, wanted) in [
            (r#"{"instructions":"Ask me.","serverInfo":{"title":"T"}}"#, Some("Ask me.")),
            (r#"{"serverInfo":{"name":"n","title":"T"}}"#, Some("T")),
            (r#"{"serverInfo":{"title":"T","description":"D"}}"#, Some("D")),
            (r#"{"serverInfo":{"name":"n"}}"#, None),
            (r#"{"instructions":5}"#, None),
        ] {
            let plain = result(inner);
            for text in
                [plain.clone(), format!("event: message\ndata: {plain}\n\n"), format!(": x\n\nid: 1\ndata:{plain}\n\n")]
            {
                assert_eq!(about(text.as_bytes()).as_deref(), wanted, "{text}");
            }
        }
        let long = result(&format!(r#"{{"instructions":"{}"}}"#, "x".repeat(5_000)));
        assert_eq!(about(long.as_bytes()).unwrap().len(), MAX_ABOUT);
        assert_eq!(about(b"no json"), None);
    }
}
