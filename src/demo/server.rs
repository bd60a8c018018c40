//! The demo's MCP server: Streamable HTTP of the revisions up to 2025-11-25, without sessions.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::http::{BodyError, Payload, Request, Response};
use crate::net::interrupt;
use crate::upstream::{Origin, Upstream};

/// The one path.
const ENDPOINT: &str = "/mcp";
/// Revisions spoken, the newest first.
const REVISIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
const MAX_BODY: usize = 1 << 20;
const MAX_STEPS: u64 = 60;

/// An MCP server with three tools, a resource and a prompt.
pub(super) struct DemoServer;

impl Upstream for DemoServer {
    fn forward(&self, request: &mut Request<'_>, _: &Origin) -> Response {
        if request.parts.uri.path() != ENDPOINT {
            return Response::text(StatusCode::NOT_FOUND, "the demo's MCP endpoint is /mcp");
        }
        if request.parts.method != Method::POST {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "this server has no stream of its own")
                .with(ALLOW, "POST");
        }
        if header(&request.parts.headers, CONTENT_TYPE).split(';').next().map(str::trim) != Some("application/json") {
            return Response::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json");
        }
        let version = header(&request.parts.headers, HeaderName::from_static("mcp-protocol-version"));
        if !version.is_empty() && !REVISIONS.contains(&version) {
            return failure(
                &Value::Null,
                -32600,
                &format!("the protocol revision is not one of {}", REVISIONS.join(", ")),
                StatusCode::BAD_REQUEST,
            );
        }
        match request.body.read_all(MAX_BODY) {
            Ok(body) => answer(&body, &request.parts.headers),
            Err(e) => {
                let error = BodyError::of(&e).unwrap_or(BodyError::Gone);
                Response::text(error.status(), error.to_string())
            }
        }
    }

    fn endpoint(&self) -> Option<&str> {
        Some(ENDPOINT)
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn answer(body: &[u8], headers: &HeaderMap) -> Response {
    let Ok(message) = serde_json::from_slice::<Value>(body) else {
        return failure(&Value::Null, -32700, "the body is not JSON", StatusCode::BAD_REQUEST);
    };
    let Some(method) = message["method"].as_str() else {
        // An answer to a question that this server never asks.
        return if message.get("result").is_some() || message.get("error").is_some() {
            Response::new(StatusCode::ACCEPTED)
        } else {
            failure(&Value::Null, -32600, "the body is not a JSON-RPC request", StatusCode::BAD_REQUEST)
        };
    };
    let Some(id) = message.get("id") else { return Response::new(StatusCode::ACCEPTED) };
    let params = &message["params"];
    match (method, params["name"].as_str()) {
        ("tools/call", Some("slow")) if header(headers, ACCEPT).contains("text/event-stream") => slow(id, params),
        _ => match result(method, params) {
            Ok(result) => Response::json(StatusCode::OK, &json!({"jsonrpc": "2.0", "id": id, "result": result})),
            Err((code, text)) => failure(id, code, &text, StatusCode::OK),
        },
    }
}

fn failure(id: &Value, code: i32, message: &str, status: StatusCode) -> Response {
    Response::json(status, &json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}))
}

fn result(method: &str, params: &Value) -> Result<Value, (i32, String)> {
    Ok(match method {
        "initialize" => {
            let asked = params["protocolVersion"].as_str().unwrap_or_default();
            json!({
                "protocolVersion": REVISIONS.iter().find(|r| **r == asked).unwrap_or(&REVISIONS[0]),
                "capabilities": {"tools": {}, "resources": {}, "prompts": {}},
                "serverInfo": {"name": "mcp-auth-proxy demo", "version": env!("CARGO_PKG_VERSION")},
                "instructions": "A demonstration: echo, clock, a slow tool with progress, a resource and a prompt.",
            })
        }
        "ping" => json!({}),
        "tools/list" => json!({"tools": tools()}),
        "tools/call" => call(params)?,
        "resources/list" => {
            json!({"resources": [{"uri": "demo://about", "name": "about", "mimeType": "text/plain", "description": "What this is"}]})
        }
        "resources/templates/list" => json!({"resourceTemplates": []}),
        "resources/read" if params["uri"] == "demo://about" => {
            let text = "This server lives inside mcp-auth-proxy. It shows that the way to it is protected.";
            json!({"contents": [{"uri": "demo://about", "mimeType": "text/plain", "text": text}]})
        }
        "resources/read" => return Err((-32002, "there is no such resource".into())),
        "prompts/list" => {
            json!({"prompts": [{"name": "greet", "description": "A greeting", "arguments": [{"name": "who", "description": "Whom to greet", "required": true}]}]})
        }
        "prompts/get" if params["name"] == "greet" => {
            let text = format!(
                "Greet {} and tell what an MCP server is.",
                params["arguments"]["who"].as_str().unwrap_or("somebody")
            );
            json!({"messages": [{"role": "user", "content": {"type": "text", "text": text}}]})
        }
        "prompts/get" => return Err((-32602, "there is no such prompt".into())),
        _ => return Err((-32601, format!("there is no method {method}"))),
    })
}

fn tools() -> Value {
    let object =
        |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required});
    json!([
        {"name": "echo", "description": "Returns its text", "inputSchema": object(json!({"text": {"type": "string"}}), json!(["text"]))},
        {"name": "clock", "description": "Tells the time in UTC", "inputSchema": object(json!({}), json!([]))},
        {"name": "slow", "description": "Takes half a second for each step and reports progress",
         "inputSchema": object(json!({"steps": {"type": "integer", "minimum": 1, "maximum": MAX_STEPS, "default": 5}}), json!([]))},
    ])
}

fn call(params: &Value) -> Result<Value, (i32, String)> {
    let arguments = &params["arguments"];
    let text = match params["name"].as_str() {
        Some("echo") => arguments["text"].as_str().ok_or((-32602, "echo needs a text".to_string()))?.to_string(),
        Some("clock") => httpdate::fmt_http_date(SystemTime::now()),
        Some("slow") => return Err((-32600, "slow reports progress: accept text/event-stream".into())),
        _ => return Err((-32602, "there is no such tool".into())),
    };
    Ok(text_result(&text))
}

fn text_result(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn slow(id: &Value, params: &Value) -> Response {
    let steps = params["arguments"]["steps"].as_u64().unwrap_or(5).clamp(1, MAX_STEPS);
    let slow =
        Slow { id: id.clone(), token: params["_meta"]["progressToken"].clone(), step: 0, steps, pending: Vec::new() };
    let mut response = Response::new(StatusCode::OK)
        .with(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))
        .with(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.body = Payload::Stream { reader: Box::new(slow), length: None };
    response
}

/// The slow tool's event stream: progress, progress, result.
struct Slow {
    id: Value,
    token: Value,
    step: u64,
    steps: u64,
    pending: Vec<u8>,
}

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.pending.is_empty() && self.step <= self.steps {
            if let Some(message) = self.next_message()? {
                self.pending = format!("event: message\ndata: {message}\n\n").into_bytes();
            }
        }
        let n = self.pending.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.pending[..n]);
        self.pending.drain(..n);
        Ok(n)
    }
}

impl Slow {
    fn next_message(&mut self) -> io::Result<Option<Value>> {
        self.step += 1;
        if self.step > self.steps {
            let result = text_result(&format!("done in {} steps", self.steps));
            return Ok(Some(json!({"jsonrpc": "2.0", "id": self.id, "result": result})));
        }
        interrupt::sleep(Duration::from_millis(500))?;
        if self.token.is_null() {
            return Ok(None);
        }
        let params = json!({"progressToken": self.token, "progress": self.step, "total": self.steps, "message": format!("step {}", self.step)});
        Ok(Some(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})))
    }
}
