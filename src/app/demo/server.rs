//! The demo's MCP server, a child process of the proxy. It speaks MCP over stdio, in revisions up to 2025-11-25.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::lock::Unpoisoned;

/// The command-line argument that runs this program as the demo's server.
pub const COMMAND: &str = "stdio-demo";

/// Supported MCP revisions, the newest first.
const REVISIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
const MAX_STEPS: u64 = 60;
/// How long the user may take to answer an elicitation request.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Limit on slow tool calls that run at the same time.
const MAX_AT_WORK: usize = 8;

/// Answers the requests on stdin until it ends.
pub fn run() -> Result<(), String> {
    let server = Arc::new(Server::default());
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|e| format!("stdin can't be read: {e}"))?;
        match serde_json::from_str::<Value>(&line) {
            Ok(message) => server.receive(message),
            Err(e) => eprintln!("a line that is not JSON was skipped: {e}"),
        }
    }
    Ok(())
}

/// An MCP server with four tools, a resource and a prompt.
#[derive(Default)]
struct Server(Mutex<State>);

#[derive(Default)]
struct State {
    can_ask: bool,
    asked: u64,
    /// Elicitation requests that the client has not answered.
    questions: HashMap<u64, mpsc::Sender<Value>>,
    at_work: usize,
}

impl Server {
    fn receive(self: &Arc<Self>, message: Value) {
        let Some(method) = message["method"].as_str() else { return self.answered(message) };
        let Some(id) = message.get("id").cloned() else { return };
        let params = message["params"].clone();
        match (method, params["name"].as_str()) {
            ("initialize", _) => self.state().can_ask = params["capabilities"]["elicitation"].is_object(),
            ("tools/call", Some("slow")) => return self.work(id, move |_| slow(&params)),
            ("tools/call", Some("ask")) => return self.work(id, Server::ask),
            _ => {}
        }
        reply(&id, result(method, &params));
    }

    /// Runs a slow tool on its own thread, so that other requests are answered meanwhile.
    fn work(self: &Arc<Self>, id: Value, tool: impl FnOnce(&Server) -> Outcome + Send + 'static) {
        let mut state = self.state();
        if state.at_work >= MAX_AT_WORK {
            return reply(&id, Err((-32603, "too many tools are at work".into())));
        }
        state.at_work += 1;
        drop(state);
        let server = self.clone();
        std::thread::spawn(move || {
            reply(&id, tool(&server));
            server.state().at_work -= 1;
        });
    }

    /// Asks the client's user for a name (elicitation).
    fn ask(&self) -> Outcome {
        let mut state = self.state();
        if !state.can_ask {
            return Ok(text_result("this client can't ask its user (it did not offer elicitation)"));
        }
        state.asked += 1;
        let number = state.asked;
        let (sender, answers) = mpsc::channel();
        state.questions.insert(number, sender);
        drop(state);
        let schema = json!({"type": "object", "properties": {"name": {"type": "string", "title": "Name"}}, "required": ["name"]});
        let params = json!({"message": "What is your name?", "requestedSchema": schema});
        send(&json!({"jsonrpc": "2.0", "id": number, "method": "elicitation/create", "params": params}));
        let answer = answers.recv_timeout(QUESTION_TIMEOUT).unwrap_or_default();
        self.state().questions.remove(&number);
        let text = match (answer["action"].as_str(), answer["content"]["name"].as_str()) {
            (Some("accept"), Some(name)) => format!("Hello, {name}!"),
            (Some(action), _) => format!("no name was given ({action})"),
            (None, _) => "no name was given".into(),
        };
        Ok(text_result(&text))
    }

    fn answered(&self, message: Value) {
        let question = message["id"].as_u64().and_then(|id| self.state().questions.remove(&id));
        if let Some(sender) = question {
            // The tool that waits for the answer may have timed out.
            let _ = sender.send(message["result"].clone());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unpoisoned()
    }
}

type Outcome = Result<Value, (i32, String)>;

fn reply(id: &Value, outcome: Outcome) {
    send(&match outcome {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err((code, message)) => json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}),
    });
}

/// Writes one line. Ignores errors: if nobody reads stdout any more, stdin is about to end too.
fn send(message: &Value) {
    let _ = io::stdout().lock().write_all(format!("{message}\n").as_bytes());
}

fn result(method: &str, params: &Value) -> Outcome {
    Ok(match method {
        "initialize" => {
            let asked = params["protocolVersion"].as_str().unwrap_or_default();
            json!({
                "protocolVersion": REVISIONS.iter().find(|r| **r == asked).unwrap_or(&REVISIONS[0]),
                "capabilities": {"tools": {}, "resources": {}, "prompts": {}},
                "serverInfo": {"name": "mcp-auth-proxy demo", "version": env!("CARGO_PKG_VERSION")},
                "instructions": "A demonstration: echo, clock, a slow tool with progress, one that asks the user, a resource and a prompt.",
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
        {"name": "ask", "description": "Asks the user for a name, and greets", "inputSchema": object(json!({}), json!([]))},
    ])
}

fn call(params: &Value) -> Outcome {
    let arguments = &params["arguments"];
    let text = match params["name"].as_str() {
        Some("echo") => arguments["text"].as_str().ok_or((-32602, "echo needs a text".to_string()))?.to_string(),
        Some("clock") => httpdate::fmt_http_date(SystemTime::now()),
        _ => return Err((-32602, "there is no such tool".into())),
    };
    Ok(text_result(&text))
}

fn text_result(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn slow(params: &Value) -> Outcome {
    let steps = params["arguments"]["steps"].as_u64().unwrap_or(5).clamp(1, MAX_STEPS);
    let token = &params["_meta"]["progressToken"];
    for step in 1..=steps {
        std::thread::sleep(Duration::from_millis(500));
        if !token.is_null() {
            let params =
                json!({"progressToken": token, "progress": step, "total": steps, "message": format!("step {step}")});
            send(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}));
        }
    }
    Ok(text_result(&format!("done in {steps} steps")))
}
