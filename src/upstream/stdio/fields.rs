//! Header fields in which modern clients repeat parts of their messages for intermediaries (MCP 2026-07-28, Streamable
//! HTTP). A server over stdio does not see them, so the proxy compares each of them with the message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::lock::Unpoisoned;
use crate::mcp::jsonrpc::{INVALID_PARAMS, INVALID_REQUEST};
use crate::mcp::message::{Kind, Message};

pub(crate) const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// "Header mismatch".
pub(crate) const HEADER_MISMATCH: i32 = -32020;
/// The annotation with which a tool asks clients to repeat an argument in a header field.
const ANNOTATION: &str = "x-mcp-header";
const PREFIX: &str = "mcp-param-";
/// How long the list of tools is cached, unless the server reports a change.
const LASTS: Duration = Duration::from_secs(60);
/// Levels of objects within a tool's arguments.
const MAX_DEPTH: usize = 16;

/// Why a request is refused: a JSON-RPC error code, and a text.
pub(crate) type Refusal = (i32, String);

/// The value of a field; `None` if the field is missing or occurs more than once.
pub(crate) fn field(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim().to_string();
    values.next().is_none().then_some(value)
}

/// Decodes a field value: `=?base64?…?=` stands for text that a header field can't carry. `None` if it is invalid.
fn plain(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|v| v.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(value.to_string()),
    }
}

/// Checks what the transport requires of every message, beyond what the server checks itself.
pub(crate) fn check(message: &Message<'_>, headers: &HeaderMap) -> Result<(), Refusal> {
    if message.is_ambiguous() {
        return Err((
            INVALID_REQUEST,
            "the message is ambiguous: a JSON member occurs twice, or in another spelling".into(),
        ));
    }
    let Kind::Request { method, .. } = &message.kind else { return Ok(()) };
    let string = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
    let meta = |name| message.param(&["_meta", name]);
    let (Some(version), Some(_)) = (meta(PROTOCOL_VERSION).and_then(string), meta(CLIENT_CAPABILITIES)) else {
        return Err((INVALID_PARAMS, "_meta lacks the protocol version or the client's capabilities".into()));
    };
    if field(headers, "mcp-protocol-version").as_ref() != Some(&version) {
        return mismatch("MCP-Protocol-Version is missing or differs from the body's");
    }
    if field(headers, "mcp-method").as_ref() != Some(method) {
        return mismatch("Mcp-Method is missing or differs from the body's method");
    }
    let named = match method.as_str() {
        "tools/call" | "prompts/get" => message.param(&["name"]),
        "resources/read" => message.param(&["uri"]),
        _ => return Ok(()),
    };
    let name = named.and_then(string);
    if name.is_none() || field(headers, "mcp-name").as_deref().and_then(plain) != name {
        return mismatch("Mcp-Name is missing or differs from what the body names");
    }
    Ok(())
}

fn mismatch(why: impl Into<String>) -> Result<(), Refusal> {
    Err((HEADER_MISMATCH, why.into()))
}

/// Cache of the arguments that the server's tools want repeated in header fields.
#[derive(Default)]
pub(crate) struct ToolFields(Mutex<Option<(Instant, Arc<Tools>)>>);

/// Keyed by the tool's name.
type Tools = HashMap<String, Vec<Annotated>>;

/// An argument that is repeated in a header field.
#[derive(Debug, PartialEq)]
struct Annotated {
    /// Names that lead to it from the tool's arguments.
    path: Vec<String>,
    /// Name of the header field without [`PREFIX`].
    field: String,
    is_number: bool,
}

impl ToolFields {
    /// Clears the cache, because the list of tools has changed.
    pub(crate) fn forget(&self) {
        *self.known() = None;
    }

    /// Compares the fields of a `tools/call` request with its arguments. `list` asks the server for its tools and
    /// returns the results of `tools/list`, one for each page.
    pub(crate) fn check(
        &self,
        message: &Message<'_>,
        headers: &HeaderMap,
        list: impl FnOnce() -> Vec<String>,
    ) -> Result<(), Refusal> {
        let Some(name) = message.param(&["name"]).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok()) else {
            return Ok(());
        };
        match self.tools(list).get(&name) {
            Some(annotated) => annotated.iter().try_for_each(|a| a.check(message, headers)),
            None => Ok(()),
        }
    }

    fn tools(&self, list: impl FnOnce() -> Vec<String>) -> Arc<Tools> {
        if let Some((since, tools)) = &*self.known()
            && since.elapsed() < LASTS
        {
            return tools.clone();
        }
        // Ask without holding the lock, because another thread may call `forget` meanwhile.
        let tools = Arc::new(list().iter().flat_map(|result| read_tools(result)).collect());
        *self.known() = Some((Instant::now(), Arc::clone(&tools)));
        tools
    }

    fn known(&self) -> MutexGuard<'_, Option<(Instant, Arc<Tools>)>> {
        self.0.lock().unpoisoned()
    }
}

impl Annotated {
    fn check(&self, message: &Message<'_>, headers: &HeaderMap) -> Result<(), Refusal> {
        let path: Vec<&str> = std::iter::once("arguments").chain(self.path.iter().map(String::as_str)).collect();
        let shown = format!("Mcp-Param-{}", self.field);
        if message.is_param_ambiguous(&path) {
            return Err((INVALID_REQUEST, format!("the argument that {shown} repeats occurs twice")));
        }
        let value: Value =
            message.param(&path).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let own = match &value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            // Only strings, booleans and numbers are repeated; an absent argument is null here.
            _ => return Ok(()),
        };
        let Some(given) = field(headers, &format!("{PREFIX}{}", self.field)) else {
            return mismatch(format!("{shown} is missing, or occurs twice"));
        };
        let Some(given) = plain(&given) else { return mismatch(format!("{shown} is not valid base64")) };
        let is_same_number = || match (given.parse::<f64>(), value.as_f64()) {
            (Ok(a), Some(b)) => self.is_number && a == b,
            _ => false,
        };
        if given == own || is_same_number() { Ok(()) } else { mismatch(format!("{shown} differs from the argument")) }
    }
}

/// The tools in one result of `tools/list` that want arguments repeated.
fn read_tools(result: &str) -> Vec<(String, Vec<Annotated>)> {
    let result: Value = serde_json::from_str(result).unwrap_or_default();
    let tools = result["tools"].as_array().into_iter().flatten();
    let read = |tool: &Value| {
        let mut found = Vec::new();
        collect(&tool["inputSchema"], &mut Vec::new(), &mut found);
        // Ignore a tool that uses one field name twice: clients drop such a tool.
        let is_unique = |a: &Annotated| found.iter().filter(|b| b.field.eq_ignore_ascii_case(&a.field)).count() == 1;
        let is_sound = found.iter().all(is_unique);
        Some((tool["name"].as_str()?.to_string(), found)).filter(|(_, found)| is_sound && !found.is_empty())
    };
    tools.filter_map(read).collect()
}

/// Collects the annotated properties. Follows only `properties` of the schema.
fn collect(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Annotated>) {
    if path.len() > MAX_DEPTH {
        return;
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        let is_number = matches!(property["type"].as_str(), Some("integer" | "number"));
        let is_plain = is_number || matches!(property["type"].as_str(), Some("string" | "boolean"));
        let is_token = |f: &&str| http::HeaderName::from_bytes(f.as_bytes()).is_ok();
        if let Some(field) = property[ANNOTATION].as_str().filter(is_token).filter(|_| is_plain) {
            found.push(Annotated { path: path.clone(), field: field.to_string(), is_number });
        }
        collect(property, path, found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: &str = r#"{"tools": [
        {"name": "plain", "inputSchema": {"type": "object", "properties": {"a": {"type": "string"}}}},
        {"name": "query", "inputSchema": {"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "limits": {"type": "object", "properties": {"rows": {"type": "integer", "x-mcp-header": "Rows"}}},
            "dry": {"type": "boolean", "x-mcp-header": "Dry"}}}},
        {"name": "twice", "inputSchema": {"type": "object", "properties": {
            "a": {"type": "string", "x-mcp-header": "Same"}, "b": {"type": "string", "x-mcp-header": "same"}}}},
        {"name": "wrong", "inputSchema": {"type": "object", "properties": {
            "a": {"type": "object", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "no token"}}}}]}"#;

    fn check(tool: &str, arguments: &str, fields: &[(&str, &str)]) -> Result<(), i32> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
        );
        let message = Message::parse(&text).unwrap();
        ToolFields::default().check(&message, &headers, || vec![TOOLS.into()]).map_err(|(code, _)| code)
    }

    #[test]
    fn fields_repeat_arguments() {
        let region = ("Mcp-Param-Region", "eu");
        let rows = |value| ("mcp-param-rows", value);
        for (arguments, fields) in [
            ("{}", vec![]),
            (r#"{"region":"eu"}"#, vec![region]),
            (r#"{"region":null}"#, vec![]),
            (r#"{"region":"größe"}"#, vec![("Mcp-Param-Region", "=?base64?Z3LDtsOfZQ==?=")]),
            (r#"{"limits":{"rows":42}}"#, vec![rows("42")]),
            (r#"{"limits":{"rows":42}}"#, vec![rows("42.0")]),
            (r#"{"dry":true}"#, vec![("Mcp-Param-Dry", "true")]),
            (r#"{"region":"=?base64?eu"}"#, vec![("Mcp-Param-Region", "=?base64?eu")]),
            // A field is not compared if the body lacks the argument.
            ("{}", vec![region]),
        ] {
            assert_eq!(check("query", arguments, &fields), Ok(()), "{arguments} {fields:?}");
        }
        for (arguments, fields) in [
            (r#"{"region":"eu"}"#, vec![]),
            (r#"{"region":"us"}"#, vec![region]),
            (r#"{"region":"EU"}"#, vec![region]),
            (r#"{"region":"eu"}"#, vec![region, region]),
            (r#"{"region":"eu"}"#, vec![("Mcp-Param-Region", "=?base64?ZXU?=")]),
            (r#"{"region":"eu"}"#, vec![("Mcp-Param-Region", "=?base64?!!!!?=")]),
            (r#"{"limits":{"rows":42}}"#, vec![rows("43")]),
            (r#"{"limits":{"rows":42}}"#, vec![]),
            (r#"{"dry":true}"#, vec![("Mcp-Param-Dry", "false")]),
        ] {
            assert_eq!(check("query", arguments, &fields), Err(HEADER_MISMATCH), "{arguments} {fields:?}");
        }
        for arguments in [r#"{"region":"eu","region":"us"}"#, r#"{"region":"eu","Region":"us"}"#] {
            assert_eq!(check("query", arguments, &[region]), Err(INVALID_REQUEST), "{arguments}");
        }
        for tool in ["plain", "twice", "wrong", "unknown"] {
            assert_eq!(check(tool, r#"{"a":"1","b":"2"}"#, &[]), Ok(()), "{tool}");
        }
    }

    #[test]
    fn the_list_is_asked_for_once() {
        let fields = ToolFields::default();
        let text =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"query","arguments":{"region":"eu"}}}"#;
        let message = Message::parse(text).unwrap();
        let mut asked = 0;
        for _ in 0..3 {
            let list = || {
                asked += 1;
                vec![TOOLS.to_string()]
            };
            assert!(fields.check(&message, &HeaderMap::new(), list).is_err());
        }
        assert_eq!(asked, 1);
        fields.forget();
        assert!(fields.check(&message, &HeaderMap::new(), Vec::new).is_ok());
    }
}
