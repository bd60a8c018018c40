//! A proxy before a scripted stdio server, and MCP clients of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mcp_auth_proxy::identity::{ClientId, UserId};
use mcp_auth_proxy::resource_url::{ResourceUrl, Resources};
use mcp_auth_proxy::tokens::access::AccessToken;
use mcp_auth_proxy::tokens::{Keys, Secret};
use serde_json::{Value, json};

use super::flow;
use super::proxy::{Proxy, Scratch, arguments, command, free_port};
use super::wire::{Connection, Reply, Transport, request};

pub(crate) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/support/child.py");
pub(crate) const BOTH: &str = "application/json, text/event-stream";

/// A proxy with the scripted server behind it.
pub(crate) struct Published {
    pub proxy: Proxy,
    secret: Secret,
    token: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

impl Published {
    pub(crate) fn start(args: &[&str], env: &[(&str, &str)]) -> Published {
        let data = Arc::new(Scratch::new());
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        let mut env: BTreeMap<String, String> = env.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let secret = Secret::generate();
        env.insert("AUTH_HMAC_SECRET".into(), secret.to_base64());
        let proxy = Published::spawn(data, free_port(), &args, &env);
        let token = flow::Client::public(&proxy).tokens().access;
        Published { proxy, secret, token, args, env }
    }

    /// With the secret in the data directory, where it is unless the environment has it.
    pub(crate) fn start_without_secret(args: &[&str]) -> Published {
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        let env = BTreeMap::new();
        let proxy = Published::spawn(Arc::new(Scratch::new()), free_port(), &args, &env);
        let secret = std::fs::read_to_string(proxy.data.path("data/secret")).unwrap();
        let token = flow::Client::public(&proxy).tokens().access;
        Published { proxy, secret: Secret::from_base64(&secret).unwrap(), token, args, env }
    }

    fn spawn(data: Arc<Scratch>, port: u16, args: &[String], env: &BTreeMap<String, String>) -> Proxy {
        let mut command = command();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(env);
        command.args(arguments(&data, port)).args(args).args(["--", "python3", "-u", SCRIPT]);
        Proxy::spawn(command, port, data)
    }

    /// Ends the proxy by a signal, and starts it anew on the same data.
    pub(crate) fn restart(self, signal: &str) -> Published {
        let Published { mut proxy, secret, token, args, env } = self;
        proxy.signal(signal);
        proxy.wait();
        let proxy = Published::spawn(proxy.data.clone(), proxy.port, &args, &env);
        Published { proxy, secret, token, args, env }
    }

    /// A client of the user who knows the password.
    pub(crate) fn client(&self) -> McpClient<'_> {
        self.client_with(self.token.clone())
    }

    /// A client of somebody else, as another way to sign in would make one.
    pub(crate) fn client_of(&self, user: &str, client: &str) -> McpClient<'_> {
        let keys = Keys::new(&self.proxy.origin(), &self.secret, &[]);
        let mut token = AccessToken::verify(&self.token, &keys, 0).unwrap();
        token.sub = UserId(user.into());
        token.client_id = ClientId(client.into());
        self.client_with(token.sign(&keys))
    }

    /// A client whose token is for the resource at `path` alone.
    pub(crate) fn client_at(&self, path: &str) -> McpClient<'_> {
        let origin = self.proxy.origin();
        let keys = Keys::new(&origin, &self.secret, &[]);
        let mut token = AccessToken::verify(&self.token, &keys, 0).unwrap();
        token.aud = Resources::new(vec![ResourceUrl::parse(&format!("{origin}{path}"), &origin).unwrap()], &origin);
        self.client_with(token.sign(&keys))
    }

    fn client_with(&self, token: String) -> McpClient<'_> {
        McpClient::new(&self.proxy, "/mcp", token)
    }
}

/// A client.
pub(crate) struct McpClient<'p> {
    pub proxy: &'p Proxy,
    pub path: String,
    pub token: String,
    pub session: Option<String>,
    pub version: &'static str,
    next: u64,
}

impl<'p> McpClient<'p> {
    /// A client of the endpoint at `path`, with no session yet.
    pub(crate) fn new(proxy: &'p Proxy, path: &str, token: String) -> McpClient<'p> {
        McpClient { proxy, path: path.into(), token, session: None, version: "2025-06-18", next: 1 }
    }

    /// Sends a request with the fields that every client sends.
    pub(crate) fn send(&self, method: &str, more: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut connection = self.begin(method, more, body);
        connection.reply(false).unwrap_or_else(|| panic!("no answer; log:\n{}", self.proxy.log()))
    }

    /// The same without waiting for the answer. A field of `more` takes the place of the usual one.
    pub(crate) fn begin(&self, method: &str, more: &[(&str, &str)], body: &[u8]) -> Connection {
        let bearer = format!("Bearer {}", self.token);
        let usual = [
            ("Authorization", Some(bearer.as_str())),
            ("Accept", Some(if method == "GET" { "text/event-stream" } else { BOTH })),
            ("Content-Type", (method == "POST").then_some("application/json")),
            ("Mcp-Session-Id", self.session.as_deref()),
            ("MCP-Protocol-Version", self.session.as_ref().map(|_| self.version)),
        ];
        let is_given = |name: &str| more.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut headers: Vec<(&str, &str)> =
            usual.iter().filter(|(n, _)| !is_given(n)).filter_map(|(n, v)| Some((*n, (*v)?))).collect();
        headers.extend(more.iter().filter(|(_, v)| !v.is_empty()));
        let mut connection = self.proxy.connect();
        connection.write(request(method, &self.path, &self.proxy.host(), &headers, body));
        connection
    }

    pub(crate) fn post(&self, body: &str) -> Reply {
        self.send("POST", &[], body.as_bytes())
    }

    /// Initializes a session; panics when the server refuses.
    pub(crate) fn initialize(&mut self) -> Value {
        let reply = self.post(&self.initialize_request());
        assert_eq!(reply.status, 200, "{}; log:\n{}", reply.text(), self.proxy.log());
        let id = reply.header("mcp-session-id");
        self.session =
            Some(id.unwrap_or_else(|| panic!("no session: {}; log:\n{}", reply.text(), self.proxy.log())).to_string());
        assert_eq!(self.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).status, 202);
        reply.json()
    }

    pub(crate) fn initialize_request(&self) -> String {
        let params = json!({"protocolVersion": self.version, "capabilities": {"sampling": {}}, "clientInfo": {"name": "test", "version": "1"}});
        json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params}).to_string()
    }

    /// The text of a request with the next id.
    pub(crate) fn request(&mut self, method: &str, params: Value) -> String {
        self.next += 1;
        json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}).to_string()
    }

    /// The messages that answer a request.
    pub(crate) fn messages(&mut self, method: &str, params: Value) -> Vec<Value> {
        let request = self.request(method, params);
        let reply = self.post(&request);
        assert_eq!(reply.status, 200, "{}", reply.text());
        match reply.header("content-type") {
            Some("text/event-stream") => events(&reply.text()).iter().map(Event::json).collect(),
            _ => vec![reply.json()],
        }
    }

    /// The last message that answers a request.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.messages(method, params).pop().expect("an answer")
    }

    /// The result of a request.
    pub(crate) fn result(&mut self, method: &str, params: Value) -> Value {
        let answer = self.call(method, params);
        assert!(answer.get("result").is_some(), "{answer}; log:\n{}", self.proxy.log());
        answer["result"].clone()
    }

    /// Opens a stream by GET.
    pub(crate) fn listen(&self, last_event_id: Option<&str>) -> Stream {
        let more: Vec<_> = last_event_id.map(|id| ("Last-Event-ID", id)).into_iter().collect();
        Stream::of(self.begin("GET", &more, b""))
    }

    /// Sends a request whose answers are read one by one.
    pub(crate) fn stream(&mut self, method: &str, params: Value) -> Stream {
        let request = self.request(method, params);
        Stream::of(self.begin("POST", &[], request.as_bytes()))
    }
}

/// A server-sent event.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

impl Event {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e} in {:?}", self.data))
    }
}

/// The events of a whole stream; comments and events without data are none.
pub(crate) fn events(text: &str) -> Vec<Event> {
    text.split("\n\n").map(event).filter(|e| !e.data.is_empty()).collect()
}

fn event(text: &str) -> Event {
    let mut event = Event::default();
    for (name, value) in text.lines().filter_map(|l| l.split_once(": ")) {
        match name {
            "event" => event.name = value.into(),
            "id" => event.id = Some(value.into()),
            "data" => event.data.push_str(value),
            _ => {}
        }
    }
    event
}

/// An answer that is read while it comes.
pub(crate) struct Stream {
    connection: Connection,
    pub head: Reply,
    text: String,
}

impl Stream {
    pub(crate) fn of(mut connection: Connection) -> Stream {
        let head = connection.head().expect("an answer");
        Stream { connection, head, text: String::new() }
    }

    /// The next event, the one without data too; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                let found = event(&std::mem::replace(&mut self.text, rest));
                if found != Event::default() {
                    return Some(found);
                }
                continue;
            }
            let chunk = self.connection.chunk().filter(|c| !c.is_empty())?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The first message, if it comes within a moment.
    pub(crate) fn is_answered(&mut self) -> Option<Value> {
        let moment = std::time::Duration::from_millis(500);
        self.connection.socket.set_read_timeout(Some(moment)).unwrap();
        self.message()
    }

    /// The next message.
    pub(crate) fn message(&mut self) -> Option<Value> {
        loop {
            let event = self.next()?;
            if !event.data.is_empty() {
                return Some(event.json());
            }
        }
    }
}

/// Does the process run? A zombie has ended.
pub(crate) fn is_running(pid: u64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// The scripted servers that run with `marker` in their environment, and what they started.
pub(crate) fn servers(marker: &str) -> Vec<u64> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u64>().ok());
    let marker = format!("MARKER={marker}\0");
    let has = |pid: &u64, file: &str, what: &str| {
        let content = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&content).contains(what)
    };
    pids.filter(|pid| is_running(*pid) && has(pid, "comm", "python") && has(pid, "environ", &marker)).collect()
}
