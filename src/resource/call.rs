//! What a request asks an MCP server for, as far as logs and limits need to know.

use std::borrow::Cow;

use http::HeaderMap;
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::message::{Kind, Message};

/// Longest method or name that is kept, in characters.
const MAX_TEXT: usize = 200;

/// What a request asks an MCP server for.
#[derive(Debug, Default)]
pub struct Call<'b> {
    /// The MCP method; `batch` for several messages; `None` if it is not known.
    pub method: Option<Cow<'b, str>>,
    /// The tool, prompt or resource.
    pub name: Option<Cow<'b, str>>,
    /// What a tool or a prompt is called with, if that was wanted.
    pub arguments: Option<serde_json::Value>,
    /// `traceparent` of the message's `_meta` (W3C Trace Context section 3.2).
    pub traceparent: Option<String>,
    /// Which tool it calls, for the limit on it.
    pub tool: Tool,
}

/// What somebody wants to know of a request, besides its method and name.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What a tool is called with.
    pub arguments: bool,
    /// Which tool it calls, beyond doubt.
    pub tool: bool,
}

/// The tool that a request calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tool {
    /// It calls none.
    #[default]
    None,
    /// This one.
    Named(String),
    /// It may call any: its body is large, a batch, or can be read in two ways.
    Unknown,
}

impl<'b> Call<'b> {
    /// Reads a request, whose body is `None` if it has not fully arrived: then only header fields tell something (MCP
    /// 2026-07-28).
    pub fn of(head: &'b Parts, body: Option<&'b [u8]>, wanted: Wanted) -> Call<'b> {
        let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(shown);
        let by_fields = Call {
            method: field("mcp-method"),
            name: field("mcp-name"),
            tool: if head.method == http::Method::POST { Tool::Unknown } else { Tool::None },
            ..Call::default()
        };
        let Some((body, text)) = body.and_then(|body| Some((body, std::str::from_utf8(body).ok()?))) else {
            return by_fields;
        };
        if let Some(call) = Call::read_fast(text, wanted) {
            return call;
        }
        let Ok(message) = Message::parse(text) else {
            let batch = text.trim_start().starts_with('[').then(|| "batch".into());
            return Call { method: by_fields.method.or(batch), ..by_fields };
        };
        let (Kind::Request { method, .. } | Kind::Notification { method }) = &message.kind else {
            return Call { tool: Tool::None, ..by_fields };
        };
        let (mut name, mut uri, mut arguments) = (None, None, None);
        message.each_param(|member, value| match member {
            "name" => name = string(value),
            "uri" => uri = string(value),
            "arguments" if wanted.arguments => arguments = serde_json::from_str(value.get()).ok(),
            _ => {}
        });
        let name: Option<Cow<'_, str>> = name.or(uri).map(|name| cut(name).into());
        let tool = match &name {
            _ if !wanted.tool => Tool::None,
            _ if message.is_ambiguous() || message.is_param_ambiguous(&["name"]) => Tool::Unknown,
            Some(name) if method == "tools/call" => Tool::Named(name.to_string()),
            _ => Tool::None,
        };
        let traceparent = Some(body).filter(|body| Call::may_have_trace(body));
        let traceparent = traceparent.and_then(|_| string(message.param(&["_meta", "traceparent"])?));
        let (Kind::Request { method, .. } | Kind::Notification { method }) = message.kind else { return by_fields };
        let traceparent = traceparent.filter(|text| trace_id(text).is_some());
        Call { method: Some(Cow::Owned(cut(method))), name, arguments, traceparent, tool }
    }

    /// Reads a request in one pass, as nearly all are: well-formed, with what is asked for in its usual place. `None` is no
    /// verdict.
    fn read_fast(text: &'b str, wanted: Wanted) -> Option<Call<'b>> {
        #[derive(Deserialize)]
        struct Request<'m> {
            jsonrpc: &'m str,
            method: &'m str,
            #[serde(borrow, default)]
            params: Params<'m>,
        }
        #[derive(Default, Deserialize)]
        struct Params<'m> {
            #[serde(borrow)]
            name: Option<&'m str>,
            uri: Option<&'m str>,
        }
        if wanted.tool || wanted.arguments || Call::may_have_trace(text.as_bytes()) {
            return None;
        }
        let Request { jsonrpc, method, params } = serde_json::from_str(text).ok()?;
        let name = params.name.or(params.uri).map(shown);
        (jsonrpc == "2.0").then(|| Call { method: Some(shown(method)), name, ..Call::default() })
    }

    /// Can a message in this body have a `traceparent`? It is much faster than to read it.
    pub fn may_have_trace(body: &[u8]) -> bool {
        memchr::memmem::find(body, b"traceparent").is_some()
    }
}

/// The trace id of the header field `traceparent`.
pub fn trace_of(headers: &HeaderMap) -> Option<&str> {
    trace_id(headers.get("traceparent")?.to_str().ok()?)
}

/// The trace id of a `traceparent` (W3C Trace Context section 3.2).
pub fn trace_id(text: &str) -> Option<&str> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex =
        |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    // Later versions may have more parts.
    let is_known = version != "ff" && (parts.next().is_none() || version != "00");
    (is_known && is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2)).then_some(trace)
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn cut(text: String) -> String {
    if text.len() <= MAX_TEXT { text } else { shown(&text).into_owned() }
}

/// The text, cut if it is long.
pub fn shown(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT { Cow::Borrowed(text) } else { Cow::Owned(text.chars().take(MAX_TEXT).collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted { arguments: true, tool: true };

    fn head() -> Parts {
        http::Request::post("/mcp").body(()).unwrap().into_parts().0
    }

    fn call(body: &str) -> Call<'static> {
        let head = head();
        let Call { method, name, arguments, traceparent, tool } = Call::of(&head, Some(body.as_bytes()), ALL);
        let owned = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Call { method: owned(method), name: owned(name), arguments, traceparent, tool }
    }

    #[test]
    fn only_the_trace_id_of_a_traceparent_is_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_id(good), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert!(trace_id(&good.replacen("00", "01", 1).replace("-01", "-01-more")).is_some(), "a later version");
        for bad in [
            "",
            "x",
            "00-4bf9-00f0-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nx: y",
        ] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_call_is_known_or_said_to_be_unknown() {
        let whole = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"mail","arguments":{"to":"a"}}}"#;
        let known = call(whole);
        assert_eq!((known.method.as_deref(), known.name.as_deref()), (Some("tools/call"), Some("mail")));
        assert_eq!((known.tool, known.arguments), (Tool::Named("mail".into()), Some(serde_json::json!({"to": "a"}))));
        assert_eq!(call(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).tool, Tool::None);
        assert_eq!(call(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).tool, Tool::None);
        let twice = whole.replace(r#""name":"mail""#, r#""name":"ping","name":"mail""#);
        let other = whole.replace(r#""method":"#, r#""Method":"ping","method":"#);
        for unknown in [&format!("[{whole}]"), &twice, &other, "x", ""] {
            assert_eq!(call(unknown).tool, Tool::Unknown, "{unknown}");
        }
        assert_eq!(call(&format!("[{whole}]")).method.as_deref(), Some("batch"));
        let few = Wanted { arguments: false, tool: false };
        for text in [whole, &twice, &other, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, r#"{"method":"ping"}"#] {
            let head = head();
            let fast = Call::of(&head, Some(text.as_bytes()), few);
            assert_eq!((fast.method, fast.name), (call(text).method, call(text).name), "{text}");
        }
        let head = http::Request::post("/mcp").header("mcp-method", "tools/call").header("mcp-name", "mail");
        let head = head.body(()).unwrap().into_parts().0;
        let of_fields = Call::of(&head, None, ALL);
        assert_eq!((of_fields.name.as_deref(), of_fields.tool), (Some("mail"), Tool::Unknown), "fields can lie");
    }
}
