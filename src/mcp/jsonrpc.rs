//! JSON-RPC 2.0: enough of it to answer a request with an error that its sender understands.

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::Response;

/// "Internal error" (JSON-RPC 2.0 section 5.1).
pub const INTERNAL_ERROR: i32 = -32603;

#[derive(Deserialize)]
struct Message<'m> {
    jsonrpc: &'m str,
    method: Option<&'m RawValue>,
    #[serde(borrow)]
    id: Option<&'m RawValue>,
}

/// The id of a JSON-RPC request, as it was written; `None` for anything else.
pub fn request_id(body: &[u8]) -> Option<&RawValue> {
    let message: Message = serde_json::from_slice(body).ok()?;
    message.method?;
    let id = message.id.filter(|_| message.jsonrpc == "2.0")?;
    // A string or a number; null, lists and objects name no request.
    id.get().starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()).then_some(id)
}

/// An error answer: in JSON-RPC where `body` was a JSON-RPC request, else as text.
pub fn error(status: StatusCode, body: Option<&[u8]>, code: i32, message: &str) -> Response {
    match body.and_then(request_id) {
        Some(id) => {
            let message = serde_json::Value::from(message);
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}}}}}"#);
            Response::new(status).with_body("application/json", text.into_bytes())
        }
        None => Response::text(status, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
