//! What a request asks an MCP server for, as far as logs and limits need to know.

use std::borrow::Cow;

use http::HeaderMap;
use http::request::Parts;
use serde_json::value::RawValue;

use crate::mcp::message::{Kind, Message, is_spelling, split};

/// Longest method or name that is kept, in characters.
const MAX_TEXT: usize = 200;

/// What a request asks an MCP server for.
#[derive(Debug, Default)]
pub struct Call<'b> {
    /// The MCP method; `batch` for several messages; `ambiguous` if a member is there twice; `None` if it is not known.
    pub method: Option<Cow<'b, str>>,
    /// The tool, prompt or resource.
    pub name: Option<Cow<'b, str>>,
    /// What a tool or a prompt is called with, if that was wanted.
    pub arguments: Option<serde_json::Value>,
    /// `traceparent` of the message's `_meta` (W3C Trace Context section 3.2).
    pub traceparent: Option<String>,
    /// Which tool it calls, for the limit on it.
    pub tool: Tool,
    /// How many messages there are, as far as is known.
    pub calls: usize,
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
    /// Reads a request, whose body is `None` if it has not fully arrived.
    pub fn of(head: &'b Parts, body: Option<&'b [u8]>, wanted: Wanted) -> Call<'b> {
        let unknown = || Call {
            tool: if head.method == http::Method::POST { Tool::Unknown } else { Tool::None },
            ..Call::default()
        };
        // Header fields (`Mcp-Method`, `Mcp-Name`) may say something else than the message, so they are not believed.
        let Some((body, text)) = body.and_then(|body| Some((body, std::str::from_utf8(body).ok()?))) else {
            return unknown();
        };
        let Ok(message) = Message::parse(text) else {
            return match split(text) {
                Ok((messages, true)) => {
                    Call { method: Some("batch".into()), calls: messages.len().max(1), ..unknown() }
                }
                _ => unknown(),
            };
        };
        let (Kind::Request { method, .. } | Kind::Notification { method }) = &message.kind else {
            return Call::default();
        };
        let (mut name, mut uri, mut arguments, mut has_twins) = (None, None, None, message.has_twins());
        message.each_param(|member, value| match member {
            "name" => has_twins |= name.replace(value).is_some(),
            "uri" => has_twins |= uri.replace(value).is_some(),
            "arguments" => has_twins |= arguments.replace(value).is_some(),
            other => has_twins |= ["name", "uri", "arguments"].iter().any(|known| is_spelling(other, known)),
        });
        if has_twins {
            // Servers differ in which of the two they take.
            return Call { method: Some("ambiguous".into()), ..unknown() };
        }
        let name = name.or(uri).and_then(string);
        let name: Option<Cow<'_, str>> = name.map(|name| cut(without_secrets(name)).into());
        let tool = match &name {
            _ if !wanted.tool => Tool::None,
            _ if message.is_ambiguous() => Tool::Unknown,
            Some(name) if method == "tools/call" => Tool::Named(name.to_string()),
            _ => Tool::None,
        };
        let arguments = arguments.filter(|_| wanted.arguments).map(|raw| {
            // What this program can't read, another may: then it is there as text.
            serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into())
        });
        let traceparent = Some(body).filter(|body| Call::may_have_trace(body));
        let traceparent = traceparent.and_then(|_| string(message.param(&["_meta", "traceparent"])?));
        let traceparent = traceparent.filter(|text| trace_id(text).is_some());
        let (Kind::Request { method, .. } | Kind::Notification { method }) = message.kind else { return unknown() };
        Call { method: Some(Cow::Owned(cut(method))), name, arguments, traceparent, tool, calls: 1 }
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
    let is_any = trace.bytes().any(|b| b != b'0');
    (is_known && is_any && is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2))
        .then_some(trace)
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn cut(text: String) -> String {
    if text.len() <= MAX_TEXT { text } else { shown(&text).into_owned() }
}

/// The name or URL without what may be a secret in it: user and password, query and fragment.
pub fn without_secrets(mut name: String) -> String {
    let Some(start) = name.find("://").map(|at| at + 3) else { return name };
    name.truncate(name.find(['?', '#']).unwrap_or(name.len()));
    let end = name[start..].find('/').map_or(name.len(), |at| start + at);
    if let Some(at) = name[start..end].rfind('@') {
        name.replace_range(start..=start + at, "");
    }
    name
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
        let Call { method, name, arguments, traceparent, tool, calls } = Call::of(&head, Some(body.as_bytes()), ALL);
        let owned = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Call { method: owned(method), name: owned(name), arguments, traceparent, tool, calls }
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
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
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
        assert_eq!(call(&format!("[{whole},{whole}]")).calls, 2);
        for text in [&twice, &other, &whole.replace(r#""arguments""#, r#""ARGUMENTS":1,"arguments""#)] {
            assert_eq!((call(text).method.as_deref(), call(text).name), (Some("ambiguous"), None), "{text}");
        }
        let deep = whole.replace(r#"{"to":"a"}"#, r#""\ud800""#);
        assert_eq!(call(&deep).arguments, Some(r#""\ud800""#.into()), "what can't be read is there as text");
        let read =
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"https://u:pw@host/a?token=x#y"}}"#;
        assert_eq!(call(read).name.as_deref(), Some("https://host/a"));
        let head = http::Request::post("/mcp").header("mcp-method", "tools/call").header("mcp-name", "mail");
        let head = head.body(()).unwrap().into_parts().0;
        let of_fields = Call::of(&head, None, ALL);
        assert_eq!((of_fields.name, of_fields.tool), (None, Tool::Unknown), "fields can lie");
    }
}
