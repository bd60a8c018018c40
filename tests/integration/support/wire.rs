//! A plain HTTP client that sends exactly what a test tells it to.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// The first field of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The error code of an OAuth answer.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_string()
    }
}

/// Sends requests and gets answers, over a socket or not.
pub(crate) trait Transport {
    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply;

    /// The external URL.
    fn origin(&self) -> String;
}

/// A connection with its own buffer, so that pipelined answers can be told apart.
pub(crate) struct Connection<S = TcpStream> {
    pub socket: S,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(port: u16) -> Connection {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        Connection::over(socket)
    }

    pub(crate) fn over(socket: TcpStream) -> Connection {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Connection::new(socket)
    }
}

impl<S: Read + Write> Connection<S> {
    /// Over anything that carries bytes.
    pub(crate) fn new(socket: S) -> Connection<S> {
        Connection { socket, buffer: Vec::new() }
    }

    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }

    /// Reads bytes until `found` says where what it looks for ends.
    pub(crate) fn read_until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = found(&self.buffer) {
                return Some(self.buffer.drain(..end).collect());
            }
            let mut piece = [0; 16 << 10];
            match self.socket.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
            }
        }
    }

    /// Reads one head.
    pub(crate) fn head(&mut self) -> Option<Reply> {
        let head = self.read_until(|b| b.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4))?;
        let text = String::from_utf8(head).unwrap();
        let mut lines = text.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Some(Reply { status, headers, body: Vec::new() })
    }

    /// Reads one answer; `None` when the connection ended instead.
    pub(crate) fn reply(&mut self, to_head: bool) -> Option<Reply> {
        let mut reply = self.head()?;
        if to_head || matches!(reply.status, 100 | 204 | 304) {
            return Some(reply);
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                if chunk.is_empty() {
                    return Some(reply);
                }
                reply.body.extend(chunk);
            }
            return None;
        }
        match reply.header("content-length").map(|l| l.parse::<usize>().unwrap()) {
            Some(length) => reply.body = self.read_until(|b| (b.len() >= length).then_some(length))?,
            None => {
                self.read_until(|_| None);
                reply.body = std::mem::take(&mut self.buffer);
            }
        }
        Some(reply)
    }

    /// Reads one chunk; empty at the end of the body, `None` when the connection ended instead.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.read_until(|b| b.windows(2).position(|w| w == b"\r\n").map(|i| i + 2))?;
        let size = usize::from_str_radix(String::from_utf8(line).unwrap().trim(), 16).unwrap();
        let mut chunk = self.read_until(|b| (b.len() >= size + 2).then_some(size + 2))?;
        chunk.truncate(size);
        Some(chunk)
    }

    /// True when the other side has closed.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.socket.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// The bytes of a request.
pub(crate) fn request(method: &str, target: &str, host: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        out.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    out.push_str("\r\n");
    [out.into_bytes(), body.to_vec()].concat()
}
