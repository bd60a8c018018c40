//! One JSON-RPC message, parsed only as far as the proxy needs to route it. What is not changed stays byte for byte as
//! it was written.

use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub use super::members::is_spelling;
use super::members::{each_member, has_twins, member, string};

/// A message; its parts are references into the original text.
#[derive(Debug)]
pub struct Message<'m> {
    text: &'m str,
    /// Request, notification or response.
    pub kind: Kind,
    id: Option<&'m RawValue>,
    params: Option<&'m RawValue>,
    result: Option<&'m RawValue>,
    has_twins: bool,
}

/// Most messages of one batch.
pub const MAX_BATCH: usize = 1_024;

/// Members that decide what a message means.
const MEMBERS: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
/// The same for its parameters, as far as this program or the server's transport acts on them.
const PARAMS: &[&str] = &["_meta", "name", "progressToken", "requestId", "uri"];
/// The same for `_meta`.
const META: &[&str] = &[
    "progressToken",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/subscriptionId",
];

/// The three kinds of JSON-RPC messages.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Expects an answer.
    Request {
        /// Its id.
        id: Id,
        /// Its method.
        method: String,
    },
    /// Expects no answer.
    Notification {
        /// Its method.
        method: String,
    },
    /// Answers a request.
    Response {
        /// The request; `None` when its id could not be read.
        id: Option<Id>,
        /// Is it an error?
        is_error: bool,
    },
}

/// An id or progress token, compared by value: `1`, `1.0` and `1e0` are the same number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Id {
    /// An integer, in any notation.
    Number(i64),
    /// Any other number, as it was written.
    Unusual(String),
    /// A string.
    Text(String),
}

impl Id {
    /// Parses an id; `None` for anything but a string or a number.
    pub fn of(raw: &RawValue) -> Option<Id> {
        let text = raw.get();
        match text.as_bytes().first()? {
            b'"' => serde_json::from_str(text).ok().map(Id::Text),
            b'-' | b'0'..=b'9' => Some(text.parse().map_or_else(|_| Id::of_float(text), Id::Number)),
            _ => None,
        }
    }

    fn of_float(text: &str) -> Id {
        const EXACT: f64 = (1u64 << 53) as f64;
        match text.parse::<f64>() {
            Ok(n) if n.fract() == 0.0 && n.abs() < EXACT => Id::Number(n as i64),
            _ => Id::Unusual(text.into()),
        }
    }
}

/// Why a text is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not JSON.
    NotJson,
    /// It is JSON, but not a JSON-RPC message; the text says why.
    NotMessage(&'static str),
}

impl Flaw {
    fn of(error: &serde_json::Error) -> Flaw {
        if error.is_data() { Flaw::NotMessage("a message is an object") } else { Flaw::NotJson }
    }
}

impl<'m> Message<'m> {
    /// Parses the parts of a message that the proxy needs.
    pub fn parse(text: &'m str) -> Result<Message<'m>, Flaw> {
        let [mut version, mut id, mut method, mut params, mut result, mut error] = [None; 6];
        let mut has_twins = false;
        each_member(text, |name, value| {
            let place = match name {
                "jsonrpc" => &mut version,
                "id" => &mut id,
                "method" => &mut method,
                "params" => &mut params,
                "result" => &mut result,
                "error" => &mut error,
                _ => {
                    has_twins |= MEMBERS.iter().any(|member| is_spelling(name, member));
                    return;
                }
            };
            has_twins |= place.replace(value).is_some();
        })
        .map_err(|e| Flaw::of(&e))?;
        if version.and_then(string).as_deref() != Some("2.0") {
            return Err(Flaw::NotMessage("jsonrpc must be \"2.0\""));
        }
        let kind = match (method, id) {
            (Some(method), id) => {
                let method = string(method).ok_or(Flaw::NotMessage("method must be a string"))?;
                match id {
                    None => Kind::Notification { method },
                    Some(id) => {
                        let id = Id::of(id).ok_or(Flaw::NotMessage("id must be a string or a number"))?;
                        Kind::Request { id, method }
                    }
                }
            }
            (None, Some(id)) if result.is_some() || error.is_some() => {
                Kind::Response { id: Id::of(id), is_error: error.is_some() }
            }
            _ => return Err(Flaw::NotMessage("it is neither request, notification nor response")),
        };
        Ok(Message { text, kind, id, params, result, has_twins })
    }

    /// Does one of its own members occur twice, or in another spelling? It says nothing of its parameters.
    pub fn has_twins(&self) -> bool {
        self.has_twins
    }

    /// Does a member that decides what the message means occur twice, or in another spelling? Parsers disagree about
    /// which one counts: most take the last, some the first, and Go's take `ID` for `id`. A member that can't be parsed
    /// here is ambiguous too, because other parsers may accept it.
    pub fn is_ambiguous(&self) -> bool {
        self.has_twins
            || self.params.is_some_and(|params| {
                has_twins(params, PARAMS) || member(params, "_meta").is_some_and(|meta| has_twins(meta, META))
            })
    }

    /// Is one of the members on `path` ambiguous? The path begins at the parameters.
    pub fn is_param_ambiguous<S: AsRef<str>>(&self, path: &[S]) -> bool {
        let mut object = self.params;
        path.iter().any(|name| {
            let found = object.is_some_and(|object| has_twins(object, &[name.as_ref()]));
            object = object.and_then(|object| member(object, name.as_ref()));
            found
        })
    }

    /// Its text.
    pub fn text(&self) -> &'m str {
        self.text
    }

    /// Its id as written.
    pub fn raw_id(&self) -> Option<&'m RawValue> {
        self.id
    }

    /// Its result as written.
    pub fn result(&self) -> Option<&'m RawValue> {
        self.result
    }

    /// The member of its parameters that `path` leads to.
    pub fn param<S: AsRef<str>>(&self, path: &[S]) -> Option<&'m RawValue> {
        path.iter().try_fold(self.params?, |object, name| member(object, name.as_ref()))
    }

    /// Calls `visit` with each of its parameters, in one pass.
    pub fn each_param(&self, visit: impl FnMut(&str, &'m RawValue)) {
        if let Some(params) = self.params {
            // What can't be read has no members.
            let _ = each_member(params.get(), visit);
        }
    }

    /// The member of its result that `path` leads to.
    pub fn outcome(&self, path: &[&str]) -> Option<&'m RawValue> {
        path.iter().try_fold(self.result?, |object, name| member(object, name))
    }

    /// The token with which a request asks for progress notifications; in a progress notification, the token of its
    /// request.
    pub fn progress_token(&self) -> Option<&'m RawValue> {
        match &self.kind {
            Kind::Notification { method } if method == "notifications/progress" => self.param(&["progressToken"]),
            _ => self.param(&["_meta", "progressToken"]),
        }
    }

    /// The message with some values replaced, and every other byte unchanged. The values must be parts of this message.
    pub fn splice(&self, changes: &[(&'m RawValue, &str)]) -> String {
        let start = self.text.as_ptr() as usize;
        let place = |value: &RawValue| -> Range<usize> {
            let at = value.get().as_ptr() as usize - start;
            at..at + value.get().len()
        };
        let mut places: Vec<_> = changes.iter().map(|(value, to)| (place(value), *to)).collect();
        places.sort_by_key(|(place, _)| place.start);
        let mut out = String::with_capacity(self.text.len() + 24);
        let mut at = 0;
        for (place, to) in places {
            out.push_str(&self.text[at..place.start]);
            out.push_str(to);
            at = place.end;
        }
        out.push_str(&self.text[at..]);
        out
    }
}

/// The messages of a text, which is one message or a batch (MCP 2025-03-26). The `bool` is true for a batch.
pub fn split(text: &str) -> Result<(Vec<&str>, bool), Flaw> {
    if !text.trim_start().starts_with('[') {
        return Ok((vec![text], false));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let batch = Batch.deserialize(&mut deserializer).and_then(|batch| deserializer.end().map(|()| batch));
    let batch = batch.map_err(|e| if e.is_data() { Flaw::NotMessage(TOO_MANY) } else { Flaw::NotJson })?;
    if batch.is_empty() {
        return Err(Flaw::NotMessage("a batch has at least one message"));
    }
    Ok((batch, true))
}

/// Most levels of nested lists and objects: parsers in many languages use a stack frame for each level.
const MAX_DEPTH: usize = 128;

/// Refuses a text with more than [`MAX_DEPTH`] nested lists and objects.
pub fn check_depth(text: &str) -> Result<(), Flaw> {
    if is_too_deep(text) { Err(Flaw::NotMessage("a message has at most 128 levels")) } else { Ok(()) }
}

fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

const TOO_MANY: &str = "a batch has at most 1024 messages";

/// Reads the texts of a batch and counts them on the way: without a limit, a list of single digits would need many
/// times its size in memory.
struct Batch;

impl<'m> DeserializeSeed<'m> for Batch {
    type Value = Vec<&'m str>;

    fn deserialize<D: Deserializer<'m>>(self, deserializer: D) -> Result<Vec<&'m str>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'m> Visitor<'m> for Batch {
    type Value = Vec<&'m str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'m>>(self, mut list: A) -> Result<Vec<&'m str>, A::Error> {
        let mut texts = Vec::new();
        while let Some(raw) = list.next_element::<&RawValue>()? {
            if texts.len() >= MAX_BATCH {
                return Err(serde::de::Error::custom(TOO_MANY));
            }
            texts.push(raw.get());
        }
        Ok(texts)
    }
}

/// `text` on one line, as MCP over stdio requires. In JSON, line ends between tokens are whitespace, and strings can't
/// contain them.
pub fn one_line(text: &str) -> String {
    text.trim_matches([' ', '\t', '\r', '\n']).replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Result<Kind, Flaw> {
        Message::parse(text).map(|m| m.kind)
    }

    #[test]
    fn requests_notifications_and_responses_are_told_apart() {
        let request = |id| Kind::Request { id, method: "ping".into() };
        for (text, id) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Id::Number(1)),
            (r#" { "method" : "p\u0069ng" , "id" : 1.0 , "jsonrpc" : "2.0" } "#, Id::Number(1)),
            (r#"{"jsonrpc":"2.0","id":10e-1,"method":"ping"}"#, Id::Number(1)),
            (r#"{"jsonrpc":"2.0","id":"1","method":"ping"}"#, Id::Text("1".into())),
            (r#"{"jsonrpc":"2.0","id":"\u0061","method":"ping"}"#, Id::Text("a".into())),
            (
                r#"{"jsonrpc":"2.0","id":123456789012345678901,"method":"ping"}"#,
                Id::Unusual("123456789012345678901".into()),
            ),
        ] {
            assert_eq!(kind(text), Ok(request(id)), "{text}");
        }
        assert_eq!(kind(r#"{"jsonrpc":"2.0","method":"a"}"#), Ok(Kind::Notification { method: "a".into() }));
        let response = |id, is_error| Ok(Kind::Response { id, is_error });
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":1,"result":null}"#), response(Some(Id::Number(1)), false));
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":null,"error":{}}"#), response(None, true));
    }

    #[test]
    fn depth_is_bounded_wherever_it_is() {
        let nested = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(check_depth(&nested(128)).is_ok() && check_depth(&nested(129)).is_err());
        assert!(check_depth(&format!(r#"{{"x":"{}\"{}"}}"#, "[".repeat(500), "{".repeat(500))).is_ok());
        assert!(check_depth(&format!("[{}]", vec!["[]"; 200].join(","))).is_ok());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in ["", "{", "nonsense", "{}x", r#"{"jsonrpc":"2.0","id":1,"method":"a"}}"#, "\u{feff}{}"] {
            assert_eq!(kind(text), Err(Flaw::NotJson), "{text}");
        }
        for text in [
            "1",
            "[]",
            "null",
            "{}",
            r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":[1],"method":"a"}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
        ] {
            assert!(matches!(kind(text), Err(Flaw::NotMessage(_))), "{text}");
        }
        let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{}"#, "[".repeat(10_000));
        assert_eq!(kind(&deep), Err(Flaw::NotJson));
        assert!(kind(&format!("{deep}{}}}", "]".repeat(10_000))).is_ok());
    }

    #[test]
    fn a_second_spelling_of_a_member_is_noticed() {
        let is_ambiguous = |text: &str| Message::parse(text).unwrap().is_ambiguous();
        assert!(is_ambiguous(r#"{"jsonrpc":"2.0","id":1,"i\u0064":2,"method":"a"}"#));
        assert!(is_ambiguous(r#"{"jsonrpc":"2.0","method":"a","method":"b"}"#));
        for other in ["ID", "Id", "Method", "PARAMS", "re\u{17f}ult", "JSONRPC"] {
            assert!(is_ambiguous(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","{other}":1}}"#)), "{other}");
        }
        for params in [
            r#"{"requestId":1,"requestId":2}"#,
            r#"{"requestId":1,"RequestID":2}"#,
            r#"{"name":"a","Name":"b"}"#,
            r#"{"URI":"a"}"#,
            r#"{"_Meta":{}}"#,
            r#"{"_meta":{"progressToken":1,"progress\u0054oken":2}}"#,
            r#"{"_meta":{"progressto\u212aen":2}}"#,
            // A name that only some parsers accept.
            r#"{"_meta":{"\ud800":0,"progressToken":1}}"#,
            r#"{"\ud800":0}"#,
        ] {
            assert!(is_ambiguous(&format!(r#"{{"jsonrpc":"2.0","method":"a","params":{params}}}"#)), "{params}");
        }
        let text = r#"{"jsonrpc":"2.0","method":"a","params":{"arguments":{"a":{"b":1,"B":2},"c":1}}}"#;
        let message = Message::parse(text).unwrap();
        assert!(
            message.is_param_ambiguous(&["arguments", "a", "b"]) && !message.is_param_ambiguous(&["arguments", "c"])
        );
        for params in [r#"{"id":1,"ID":2,"arguments":{"name":1,"Name":2}}"#, "[1]", "null"] {
            assert!(
                !is_ambiguous(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","x":1,"x":2,"params":{params}}}"#)),
                "{params}"
            );
        }
    }

    #[test]
    fn splicing_leaves_every_other_byte() {
        let text = r#"{ "params":{"_meta":{"progressToken": "t\u0061", "n": 1e400}, "id":7},"id" : 7.0 ,"method":"x","jsonrpc":"2.0"}"#;
        let message = Message::parse(text).unwrap();
        let token = message.progress_token().unwrap();
        assert_eq!(Id::of(token), Some(Id::Text("ta".into())));
        let changed = message.splice(&[(message.raw_id().unwrap(), "41"), (token, "42")]);
        assert_eq!(
            changed,
            r#"{ "params":{"_meta":{"progressToken": 42, "n": 1e400}, "id":7},"id" : 41 ,"method":"x","jsonrpc":"2.0"}"#
        );
        assert_eq!(message.splice(&[]), text);
    }

    #[test]
    fn batches_are_split_into_their_texts() {
        assert_eq!(split(r#"{"a":1}"#), Ok((vec![r#"{"a":1}"#], false)));
        assert_eq!(split(" [ {\"a\": 1e2} ,\n{}]"), Ok((vec![r#"{"a": 1e2}"#, "{}"], true)));
        assert!(matches!(split("[]"), Err(Flaw::NotMessage(_))));
        assert_eq!(split("[{}"), Err(Flaw::NotJson));
    }

    #[test]
    fn a_line_is_a_line() {
        assert_eq!(one_line("{\r\n  \"a\": \"\\n\"\n}\r\n"), "{    \"a\": \"\\n\" }");
    }

    #[test]
    fn a_batch_is_bounded_while_it_is_read() {
        let batch = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert_eq!(split(&batch(MAX_BATCH)).unwrap().0.len(), MAX_BATCH);
        assert_eq!(split(&batch(MAX_BATCH + 1)), Err(Flaw::NotMessage(TOO_MANY)));
        // Parsing stops at the limit, so the missing end is not noticed.
        assert_eq!(split(&format!("[{}", "1,".repeat(MAX_BATCH + 1))), Err(Flaw::NotMessage(TOO_MANY)));
        assert_eq!(split("[1,"), Err(Flaw::NotJson));
        assert_eq!(split("[1] x"), Err(Flaw::NotJson));
        assert!(TOO_MANY.contains(&MAX_BATCH.to_string()));
    }
}
