//! The real binary.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::eventually;
use super::wire::{Connection, Reply, Transport, request};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A directory that is removed with its owner.
pub(crate) struct Scratch(pub PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mcp-auth-proxy-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One below those that the system gives to outgoing connections, each once in this process: nobody takes it in between.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = 10_000 + std::process::id() * 97 % 20_000;
    loop {
        let port = u16::try_from(10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 22_000).unwrap();
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// The binary with an environment of its own.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-auth-proxy"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    child: Child,
    pub port: u16,
    pub data: Arc<Scratch>,
    log: Arc<Mutex<String>>,
}

impl Proxy {
    /// A proxy before `upstream`, with the test password unless `args` bring another.
    pub(crate) fn start(upstream: u16, args: &[&str]) -> Proxy {
        Proxy::start_in(Arc::new(Scratch::new()), free_port(), upstream, args)
    }

    /// The same on a given data directory and port: a restart.
    pub(crate) fn start_in(data: Arc<Scratch>, port: u16, upstream: u16, args: &[&str]) -> Proxy {
        let mut command = command();
        command.args(arguments(&data, port)).args(args).arg(format!("http://127.0.0.1:{upstream}"));
        Proxy::spawn(command, port, data)
    }

    /// Runs `command`, which must listen on `port`.
    pub(crate) fn spawn(mut command: Command, port: u16, data: Arc<Scratch>) -> Proxy {
        if !command.get_envs().any(|(name, _)| name == "LOG_LEVEL") {
            command.env("LOG_LEVEL", "debug");
        }
        command.env("NO_UPSTREAM_CHECK", "1").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, writer) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let mut proxy = Proxy { child, port, data, log };
        eventually("the proxy listens", || {
            assert!(proxy.child.try_wait().unwrap().is_none(), "the proxy ended: {}", proxy.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        proxy
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has `text`: lines take a moment from one process to the other.
    pub(crate) fn has_logged(&self, text: &str) {
        eventually(&format!("the log has: {text}"), || self.log().contains(text));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the proxy ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Kills it with -9 and starts it anew on the same data.
    pub(crate) fn crash_and_restart(mut self, upstream: u16, args: &[&str]) -> Proxy {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Proxy::start_in(self.data.clone(), self.port, upstream, args)
    }

    /// Runs a command that asks this proxy, such as `clients list`. The error is what it says on standard error.
    pub(crate) fn order(&self, words: &[&str]) -> Result<serde_json::Value, String> {
        let done = command().args(words).args(["--json", "--data-path", &self.data.path("data")]).output().unwrap();
        match done.status.success() {
            true => Ok(serde_json::from_slice(&done.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.port)
    }

    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

/// The arguments that every test's proxy has.
pub(crate) fn arguments(data: &Scratch, port: u16) -> Vec<String> {
    [
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--external-url",
        &format!("http://localhost:{port}"),
        "--data-path",
        &data.path("data"),
        "--password",
        PASSWORD,
    ]
    .map(String::from)
    .to_vec()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Transport for Proxy {
    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut connection = self.connect();
        connection.write(request(method, target, &self.host(), headers, body));
        connection
            .reply(method == "HEAD")
            .unwrap_or_else(|| panic!("no answer to {method} {target}; log:\n{}", self.log()))
    }

    fn origin(&self) -> String {
        format!("http://localhost:{}", self.port)
    }
}
