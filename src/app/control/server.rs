//! The threads that answer requests on the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::actions::Control;
use super::protocol::{ControlAnswer, ControlRequest};
use super::socket;
use crate::lock::Unpoisoned;
use crate::observe::events::{Event, Kind};
use crate::thread::spawn;

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 64 << 10;
/// How long a request may take to arrive, and its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most connections at one time.
const MAX_CONNECTIONS: usize = 64;

/// Starts the first of them. Without a socket, the proxy serves all the same: the commands then say that they find none.
pub(in crate::app) fn start(control: Control, data: &Path) -> Result<(), String> {
    let listener = match socket::listen(data) {
        Ok(listener) => listener,
        Err(e) => {
            log::warn!(directory:% = data.display(), error:% = e; "there is no control socket in the data directory, so commands such as 'mcp-auth-proxy status' do not find this proxy");
            return Ok(());
        }
    };
    let control = Arc::new(Orders { control, turn: Mutex::new(()) });
    let places = Arc::new(());
    spawn("control", move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) if !socket::is_allowed(&stream) => {
                    Event::new(Kind::ControlRefused).tell();
                }
                // Each on a thread of its own: whoever connects and says nothing keeps nobody waiting.
                Ok(stream) if Arc::strong_count(&places) <= MAX_CONNECTIONS => {
                    let (control, place) = (control.clone(), places.clone());
                    let _ = spawn("control", move || {
                        let _place = place;
                        if catch_unwind(AssertUnwindSafe(|| control.answer(stream))).is_err() {
                            log::error!("internal error: a request on the control socket panicked; please report it");
                        }
                    });
                }
                Ok(_) => log::warn!("there are too many connections to the control socket; one was closed"),
                // Out of descriptors, most likely.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    })
}

/// Carries out requests, one after the other: each sees what the one before has done.
struct Orders {
    control: Control,
    turn: Mutex<()>,
}

impl Orders {
    fn answer(&self, mut stream: UnixStream) {
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let read = read(&stream);
        let is_backup = matches!(read, Ok(ControlRequest::Backup {}));
        let turn = self.turn.lock().unpoisoned();
        let done = read.and_then(|request| self.control.carry_out(request));
        let turn = is_backup.then_some(turn);
        let mut line = serde_json::to_vec(&ControlAnswer::from(done)).expect("answers are plain data");
        line.push(b'\n');
        // Whoever has asked may have gone.
        let is_there = stream.write_all(&line).is_ok();
        // Keys are not replaced meanwhile. What is missing at its end tells the other side that it broke off.
        if turn.is_some()
            && is_there
            && let Err(e) = self.control.backup(&mut stream)
        {
            log::warn!(error:% = e; "a back-up broke off");
        }
    }
}

fn read(stream: &UnixStream) -> Result<ControlRequest, String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(MAX_REQUEST + 1));
    reader.read_line(&mut line).map_err(|e| format!("the request can't be read: {e}"))?;
    if line.len() as u64 > MAX_REQUEST {
        return Err("the request is longer than 64 KiB".into());
    }
    serde_json::from_str(&line).map_err(|e| format!("the request is malformed: {e}"))
}
