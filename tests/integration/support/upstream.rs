//! A server behind the proxy that does what a test tells it to, and remembers what it was sent.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::wire::Connection;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// The server: one thread a connection.
pub(crate) struct FakeUpstream {
    pub port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl FakeUpstream {
    /// Answers each request with what `answer` writes.
    pub(crate) fn start(answer: impl Fn(&Received, &mut TcpStream) + Send + Sync + 'static) -> FakeUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (received, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let log = received.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (answer.clone(), log.clone());
                std::thread::spawn(move || {
                    let mut connection = Connection::over(socket);
                    while let Some(request) = connection.request() {
                        log.lock().unwrap().push(request.clone());
                        answer(&request, &mut connection.socket);
                    }
                });
            }
        });
        FakeUpstream { port, received }
    }

    /// Answers everything with 200 and a short text.
    pub(crate) fn ok() -> FakeUpstream {
        FakeUpstream::start(|_, out| text(out, "200 OK", "", "ok"))
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Received {
        self.received().pop().expect("the upstream server was asked nothing")
    }
}

/// Writes an answer with a length. `fields` are whole lines.
pub(crate) fn text(out: &mut TcpStream, status: &str, fields: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{fields}\r\n", body.len());
    // The proxy may have gone away on purpose.
    let _ = out.write_all((head + body).as_bytes());
}

impl Connection {
    fn request(&mut self) -> Option<Received> {
        let head = self.read_until(|b| b.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4))?;
        let text = String::from_utf8(head).unwrap();
        let mut lines = text.lines();
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_string(), first.next()?.to_string());
        let headers: Vec<(String, String)> =
            lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let mut received = Received { method, target, headers, body: Vec::new() };
        if received.header("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                received.body.extend(chunk);
            }
        } else if let Some(length) = received.header("content-length").map(|l| l.parse::<usize>().unwrap()) {
            received.body = self.read_until(|b| (b.len() >= length).then_some(length))?;
        }
        Some(received)
    }
}
