//! The JSON Schema of the servers file, and its reference in `docs/servers.md`.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::keys::{self, ALIASES, Kind, Object, PASSED, Passed};

/// The address that the schema calls itself by. Nothing has to be there.
const ID: &str = "https://mcp-auth-proxy.invalid/servers.schema.json";

/// The JSON Schema (draft 2020-12), as text that ends with a line break.
pub fn json_schema() -> String {
    let servers = json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/server" } });
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "MCP servers that mcp-auth-proxy publishes",
        "type": "object",
        "properties": { "$schema": { "type": "string" }, "mcpServers": servers, "servers": servers },
        "oneOf": [{ "required": ["mcpServers"] }, { "required": ["servers"] }],
        "$defs": {
            "server": object(Object::Server),
            "proxy": object(Object::Proxy),
            "allow": object(Object::Allow),
            "stdio": object(Object::Stdio),
            "timeouts": object(Object::Timeouts),
        },
    });
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

fn object(object: Object) -> Value {
    let mut properties = Map::new();
    for key in keys::of(object) {
        let mut property = kind(key.kind);
        property["description"] = key.help.into();
        for alias in ALIASES.iter().filter(|(_, name)| object == Object::Server && *name == key.name) {
            properties.insert(alias.0.into(), property.clone());
        }
        properties.insert(key.name.into(), property);
    }
    let mut schema = json!({ "type": "object" });
    if object == Object::Server {
        // Keys of clients are allowed, so that an editor does not complain about a client's file.
        for (name, _) in PASSED.iter().filter(|(_, passed)| !matches!(passed, Passed::Refuse(_))) {
            properties.insert((*name).into(), json!({ "description": "Has no effect in mcp-auth-proxy." }));
        }
        let urls: Vec<Value> = ["url", "serverUrl", "httpUrl"].map(|name| json!({ "required": [name] })).into();
        schema["anyOf"] = [vec![json!({ "required": ["command"] })], urls].concat().into();
    }
    schema["properties"] = properties.into();
    schema["additionalProperties"] = false.into();
    schema
}

fn kind(kind: Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Map => {
            json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean", "null"] } })
        }
        Kind::Count => json!({ "type": "integer", "minimum": 1 }),
        Kind::CountOrNone => json!({ "type": "integer", "minimum": 0 }),
        Kind::Duration => json!({ "type": "string", "pattern": "^[0-9]+[smhd]?$" }),
        Kind::Size => json!({ "type": "string", "pattern": "^[0-9]+([KMG]iB)?$" }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Object(of) => json!({ "$ref": format!("#/$defs/{}", of.path().rsplit('.').next().unwrap_or_default()) }),
    }
}

/// The tables of the reference, as Markdown.
pub fn reference() -> String {
    let mut out = String::new();
    for of in Object::ALL {
        let heading = match of {
            Object::Server => "A server".to_string(),
            _ => format!("`{}`", of.path()),
        };
        let _ = write!(out, "### {heading}\n\n| key | value | |\n|---|---|---|\n");
        for key in keys::of(of) {
            let _ = writeln!(out, "| `{}` | {} | {} |", key.name, in_words(key.kind), key.help.replace('|', "\\|"));
        }
        out.push('\n');
    }
    out
}

fn in_words(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".into(),
        Kind::Switch => "`true`, `false`".into(),
        Kind::Texts => "list of texts".into(),
        Kind::Map => "object of texts".into(),
        Kind::Count => "number from 1".into(),
        Kind::CountOrNone => "number from 0".into(),
        Kind::Duration => "duration, such as `\"5m\"`".into(),
        Kind::Size => "size, such as `\"512MiB\"`".into(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Object(of) => format!("object, see [`{0}`](#{1})", of.path(), of.path().replace('.', "")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn servers_reference_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/servers.md");
        let found = std::fs::read_to_string(path).unwrap();
        let (text, _) = found.split_once("<!-- The tables are generated").unwrap();
        let mark = "<!-- The tables are generated: UPDATE_DOCS=1 cargo test servers_reference -->\n\n";
        let wanted = format!("{text}{mark}{}\n", super::reference().trim_end());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(found == wanted, "docs/servers.md is stale: UPDATE_DOCS=1 cargo test servers_reference");
    }
}
