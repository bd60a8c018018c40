//! A fuzzer for the client side: a server that resets, answers early, pads, pipelines and cuts at random, and clients
//! that send at once, slowly, or leave, over TCP, TLS and a Unix socket. Checked is who got whose answer, and what the
//! server took for a whole request.
//!
//! `UPSTREAM_FUZZ_SECONDS` is how long it takes in all (12), `UPSTREAM_FUZZ_SEED` where it begins.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::flow::Client;
use crate::support::proxy::Proxy;
use crate::support::random::Random;
use crate::support::scripted::{Over, Scripted, Wire};
use crate::support::wire::{Connection, Transport};

/// The body of the request of that number.
fn body_of(number: u64, length: usize) -> Vec<u8> {
    let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{number},\"method\":\"tools/call\"}}");
    line.bytes().cycle().take(length).collect()
}

/// What the server took for a whole request.
#[derive(Clone, Debug, PartialEq)]
struct Whole {
    method: String,
    is_right: bool,
}

#[derive(Default)]
struct Seen {
    whole: HashMap<u64, Vec<Whole>>,
    /// What the server said whole in answer to each request; `None` for none.
    broken: Vec<String>,
}

/// A connection with what was read of it beyond the last request.
struct Reader {
    wire: Wire,
    buffer: Vec<u8>,
}

/// How the end of a request's body is found.
enum Framing {
    Length(usize),
    Chunked,
}

impl Reader {
    fn fill(&mut self) -> bool {
        let mut piece = vec![0; 32 << 10];
        match self.wire.read(&mut piece) {
            Ok(n @ 1..) => self.buffer.extend_from_slice(&piece[..n]),
            _ => return false,
        }
        true
    }

    fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    /// The whole body; `None` when it was cut.
    fn body(&mut self, framing: &Framing) -> Option<Vec<u8>> {
        match framing {
            Framing::Length(length) => self.take(*length),
            Framing::Chunked => {
                let mut body = Vec::new();
                loop {
                    let line = String::from_utf8(self.take_until(b"\r\n")?).ok()?;
                    let size = usize::from_str_radix(line.trim(), 16).ok()?;
                    let chunk = self.take(size + 2)?;
                    if !chunk.ends_with(b"\r\n") {
                        return None;
                    }
                    if size == 0 {
                        return Some(body);
                    }
                    body.extend_from_slice(&chunk[..size]);
                }
            }
        }
    }
}

/// Plays one connection of the server.
fn play(wire: Wire, seed: u64, seen: &Mutex<Seen>) {
    let (mut random, mut reader) = (Random::new(seed), Reader { wire, buffer: Vec::new() });
    loop {
        let Some(head) = reader.take_until(b"\r\n\r\n") else { return };
        let Ok(head) = String::from_utf8(head) else {
            return seen.lock().unwrap().broken.push("a head that is no text".into());
        };
        let field = |name: &str| {
            let line = head.lines().find_map(|l| l.strip_prefix(&format!("{name}: ")));
            line.map(str::to_string)
        };
        let Some(number) = field("x-number").and_then(|n| n.parse::<u64>().ok()) else {
            return seen.lock().unwrap().broken.push(format!("not the head of a request: {head:?}"));
        };
        let length: usize = field("x-length").and_then(|n| n.parse().ok()).unwrap_or_default();
        let framing = match field("content-length") {
            _ if field("transfer-encoding").is_some() => Framing::Chunked,
            Some(n) => Framing::Length(n.parse().unwrap()),
            None => Framing::Length(0),
        };
        let method = head.split(' ').next().unwrap_or_default().to_string();
        let behaviour = random.below(16);
        // Before the body has been read.
        match behaviour {
            0 => return reader.wire.reset(),
            1 | 2 => {
                reader.wire.say(answer(number, "early", &mut random));
                if behaviour == 2 {
                    // It reads on, as servers do that want to be heard.
                    let _ = reader.body(&framing);
                }
                return if random.below(2) == 0 { reader.wire.reset() } else { reader.wire.close() };
            }
            3 => {
                let _ = reader.take(random.below(100_000) as usize);
                return reader.wire.reset();
            }
            _ => {}
        }
        let Some(body) = reader.body(&framing) else { return };
        let whole = Whole { method, is_right: body == body_of(number, length) };
        seen.lock().unwrap().whole.entry(number).or_default().push(whole);
        match behaviour {
            4 => return reader.wire.reset(),
            5 => return reader.wire.close(),
            6 => {
                // Cut within its answer.
                let text = answer(number, "whole", &mut random);
                let cut = random.below(text.len() as u64 - 1) as usize;
                reader.wire.say(&text[..cut]);
                return if random.below(2) == 0 { reader.wire.reset() } else { reader.wire.close() };
            }
            7 | 8 => {
                // More than was asked for, at once or a moment later.
                let (own, more) = (answer(number, "whole", &mut random), answer(0, "stolen", &mut random));
                let late = 1 + random.below(more.len() as u64 - 1) as usize;
                reader.wire.say([own, more[..late].to_vec()].concat());
                std::thread::sleep(Duration::from_millis(random.below(4)));
                reader.wire.say(&more[late..]);
            }
            9 => {
                reader.wire.say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
                reader.wire.say(answer(number, "whole", &mut random));
            }
            10 => {
                // Ends with the connection.
                reader.wire.say(format!("HTTP/1.0 200 OK\r\n\r\nnumber={number};whole;end"));
                return reader.wire.close();
            }
            11 => {
                for byte in answer(number, "whole", &mut random).chunks(7) {
                    if !reader.wire.say(byte) {
                        return;
                    }
                }
            }
            12 => {
                reader.wire.say(answer(number, "whole", &mut random));
                return reader.wire.close();
            }
            _ => drop(reader.wire.say(answer(number, "whole", &mut random))),
        }
    }
}

/// An answer that says whose it is, framed in one of the ways that there are.
fn answer(number: u64, what: &str, random: &mut Random) -> Vec<u8> {
    let body = format!("number={number};{what};{}end", "-".repeat(random.below(3) as usize * 9_000));
    match random.below(3) {
        0 => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        1 => {
            let mut out = String::from("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in body.as_bytes().chunks(1 + random.below(5_000) as usize) {
                let piece = std::str::from_utf8(piece).unwrap();
                out.push_str(&format!("{:04x}  ;x=y\r\n{piece}\r\n", piece.len()));
            }
            (out + "0\r\nTrailer: x\r\n\r\n").into_bytes()
        }
        _ => format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        )
        .into_bytes(),
    }
}

/// One request of a client, and what is wrong with what came of it.
fn ask(
    proxy: &Proxy,
    connection: &mut Option<Connection>,
    token: &str,
    number: u64,
    random: &mut Random,
) -> Option<String> {
    let method = random.pick(&["GET", "POST", "POST", "PUT", "DELETE"]);
    let length = match method {
        "GET" | "DELETE" => 0,
        _ => random.pick(&[0, 60, 5_000, 65_536, 65_537, 100_000, 300_000]),
    };
    let (is_chunked, leaves, pauses) = (random.below(3) == 0, random.below(12) == 0, random.below(6) == 0);
    let mut head = format!("{method} /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\n", proxy.host());
    head.push_str(&format!("X-Number: {number}\r\nX-Length: {length}\r\nContent-Type: application/json\r\n"));
    let body = body_of(number, length);
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    if length > 0 && is_chunked {
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(1 + random.below(90_000) as usize) {
            pieces.push([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
        }
        pieces.push(b"0\r\n\r\n".to_vec());
    } else {
        if length > 0 || method == "POST" {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        pieces.extend(body.chunks(1 + random.below(90_000) as usize).map(<[u8]>::to_vec));
    }
    let mut own = connection.take().unwrap_or_else(|| proxy.connect());
    if own.socket.write_all(head.as_bytes()).is_err() {
        return None;
    }
    let sent = if leaves && length > 0 { random.below(pieces.len() as u64) as usize } else { pieces.len() };
    let mut writer = own.socket.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for piece in &pieces[..sent] {
            if pauses {
                std::thread::sleep(Duration::from_millis(2));
            }
            if writer.write_all(piece).is_err() {
                return;
            }
        }
        if sent < pieces.len() {
            let _ = writer.shutdown(std::net::Shutdown::Both);
        }
    });
    let reply = own.reply(false);
    let closes = reply.as_ref().is_none_or(|r| r.header("connection") == Some("close"));
    drop(writing.join());
    let reply = reply?;
    if !closes {
        *connection = Some(own);
    }
    let text = reply.text();
    match reply.status {
        200 if text.starts_with(&format!("number={number};")) && text.ends_with("end") => None,
        400 | 408 | 502 | 504 => None,
        status => Some(format!("request {number} ({method}, {length} bytes) got {status}: {:.60}", text)),
    }
}

#[test]
fn whose_answers_and_whole_requests_stay_theirs_whatever_the_server_does() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let seconds = number("UPSTREAM_FUZZ_SECONDS", 12);
    let seed = number("UPSTREAM_FUZZ_SEED", 1);
    eprintln!("UPSTREAM_FUZZ_SEED={seed} UPSTREAM_FUZZ_SECONDS={seconds}");
    std::thread::scope(|scope| {
        for (i, over) in Over::ALL.into_iter().enumerate() {
            scope.spawn(move || fuzz(over, seed.wrapping_add(i as u64), Duration::from_secs(seconds)));
        }
    });
}

fn fuzz(over: Over, seed: u64, time: Duration) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (own, connections) = (seen.clone(), AtomicU64::new(seed << 32));
    let server = Scripted::start(over, move |wire| play(wire, connections.fetch_add(1, Ordering::SeqCst), &own));
    let proxy = server.proxy(&["--body-timeout", "5s", "--upstream-response-timeout", "10s"]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let (deadline, numbers) = (Instant::now() + time, AtomicU64::new(1));
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let clients = (0..6u64).map(|client| {
            let (proxy, token, numbers) = (&proxy, &token, &numbers);
            scope.spawn(move || {
                let (mut random, mut connection) = (Random::new(seed * 31 + client), None);
                let mut wrong = Vec::new();
                while Instant::now() < deadline && wrong.is_empty() {
                    let number = numbers.fetch_add(1, Ordering::SeqCst);
                    wrong.extend(ask(proxy, &mut connection, token, number, &mut random));
                }
                wrong
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().flat_map(|c| c.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{over:?}, seed {seed}: {wrong:?}; log:\n{}", proxy.log());
    let seen = seen.lock().unwrap();
    assert!(seen.broken.is_empty(), "{over:?}, seed {seed}: {:?}", seen.broken);
    for (number, whole) in &seen.whole {
        assert!(whole.iter().all(|w| w.is_right), "{over:?}, seed {seed}: request {number} arrived as {whole:?}");
        // What may not be repeated was not; what may be was, once at most.
        let most = if whole[0].method == "POST" { 1 } else { 2 };
        assert!(whole.len() <= most, "{over:?}, seed {seed}: request {number} was carried out {} times", whole.len());
    }
    assert!(seen.whole.len() > 20, "{over:?}: only {} requests arrived", seen.whole.len());
    assert_eq!(proxy.send("GET", "/.well-known/oauth-authorization-server", &[], b"").status, 200);
    assert!(!proxy.log().contains("internal error"), "{}", proxy.log());
}
