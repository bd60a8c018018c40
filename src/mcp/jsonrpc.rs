//! JSON-RPC 2.0: enough of it to answer a request with an error that its sender understands.

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::message::{Kind, Message, split};
use crate::http::Response;

/// "Parse error" (JSON-RPC 2.0 section 5.1).
pub const PARSE_ERROR: i32 = -32700;
/// "Invalid Request".
pub const INVALID_REQUEST: i32 = -32600;
/// "Method not found".
pub const METHOD_NOT_FOUND: i32 = -32601;
/// "Invalid params".
pub const INVALID_PARAMS: i32 = -32602;
/// "Internal error".
pub const INTERNAL_ERROR: i32 = -32603;

/// A server error that is none of the above (section 5.1 leaves -32000 to -32099 to implementations).
pub const SERVER_ERROR: i32 = -32000;

#[derive(Deserialize)]
struct Envelope<'m> {
    jsonrpc: &'m str,
    method: Option<&'m RawValue>,
    #[serde(borrow)]
    id: Option<&'m RawValue>,
}

/// The id of a JSON-RPC request, as it was written; `None` for anything else.
pub fn request_id(body: &[u8]) -> Option<&RawValue> {
    let message: Envelope = serde_json::from_slice(body).ok()?;
    message.method?;
    let id = message.id.filter(|_| message.jsonrpc == "2.0")?;
    // A string or a number; null, lists and objects are not valid ids.
    id.get().starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()).then_some(id)
}

/// Methods that are safe to send twice, because the second request changes nothing more. A repeated `initialize` may
/// leave an unused session behind, which servers end by themselves.
const QUESTIONS: &[&str] = &[
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
];

/// Does `body`, one message or a batch, hold nothing but requests that may be sent twice?
pub fn only_asks(body: &[u8]) -> bool {
    // A message that another parser could read as another method is not safe.
    let is_question = |text: &&str| {
        Message::parse(text).is_ok_and(|message| {
            let (Kind::Request { method, .. } | Kind::Notification { method }) = &message.kind else { return false };
            !message.is_ambiguous() && QUESTIONS.contains(&method.as_str())
        })
    };
    let Ok(text) = std::str::from_utf8(body) else { return false };
    split(text).is_ok_and(|(messages, _)| messages.iter().all(is_question))
}

/// The code of an error response; `None` for anything else.
pub fn error_code(message: &str) -> Option<i32> {
    #[derive(Deserialize)]
    struct Response {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        code: i32,
    }
    Some(serde_json::from_str::<Response>(message).ok()?.error.code)
}

/// An error answer: in JSON-RPC where `body` was a JSON-RPC request, else as text.
pub fn error(status: StatusCode, body: Option<&[u8]>, code: i32, message: &str) -> Response {
    match body.and_then(request_id) {
        Some(id) => error_for(status, id.get(), code, message),
        None => Response::text(status, message),
    }
}

/// An error answer in JSON-RPC to the request whose id is written as `id`, which is `null` when there is none.
pub fn error_for(status: StatusCode, id: &str, code: i32, message: &str) -> Response {
    Response::new(status).with_body("application/json", error_message(id, code, message).into_bytes())
}

/// An error response to the request whose id is written as `id`.
pub fn error_message(id: &str, code: i32, message: &str) -> String {
    let message = serde_json::Value::from(message);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}}}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_may_be_repeated() {
        for yes in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]"#,
        ] {
            assert!(only_asks(yes.as_bytes()), "{yes}");
        }
        for no in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call"}]"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call"}"#,
            "ping",
            "",
        ] {
            assert!(!only_asks(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn ids_are_echoed_as_written() {
        let id = |text: &str| request_id(text.as_bytes()).map(|r| r.get().to_string());
        assert_eq!(id(r#"{"jsonrpc":"2.0","id":1.0e2,"method":"ping"}"#).as_deref(), Some("1.0e2"));
        assert_eq!(id(r#"{"jsonrpc":"2.0","id":"a\u0062","method":"ping"}"#).as_deref(), Some(r#""a\u0062""#));
        for none in [
            r#"{"jsonrpc":"2.0","method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":[1],"method":"x"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            "[]",
            "",
            "{",
        ] {
            assert_eq!(id(none), None, "{none}");
        }
        assert_eq!(id(&format!(r#"{{"jsonrpc":"2.0","id":{}"#, "[".repeat(10_000))), None);
    }
}
