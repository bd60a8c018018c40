//! The thread that answers requests on the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::actions::Control;
use super::protocol::{ControlAnswer, ControlRequest};
use super::socket;
use crate::thread::spawn;

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 64 << 10;
/// How long a request may take to arrive, and its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the thread. Without a socket, the proxy serves all the same: the commands then say that they find none.
pub(in crate::app) fn start(control: Control, data: &Path) -> Result<(), String> {
    let listener = match socket::listen(data) {
        Ok(listener) => listener,
        Err(e) => {
            log::warn!(directory:% = data.display(), error:% = e; "there is no control socket in the data directory, so commands such as 'mcp-auth-proxy status' do not find this proxy");
            return Ok(());
        }
    };
    let control = Arc::new(control);
    spawn("control", move || {
        for stream in listener.incoming() {
            match stream {
                // One after the other: orders are few, and each sees what the one before has done.
                Ok(stream) => {
                    let answered = catch_unwind(AssertUnwindSafe(|| answer(&control, stream)));
                    if answered.is_err() {
                        log::error!("internal error: a request on the control socket panicked; please report it");
                    }
                }
                // Out of descriptors, most likely.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    })
}

fn answer(control: &Control, mut stream: UnixStream) {
    if !socket::is_allowed(&stream) {
        log::warn!("a process of another user connected to the control socket; it was refused");
        return;
    }
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let answer = ControlAnswer::from(read(&stream).and_then(|request| control.carry_out(request)));
    let mut line = serde_json::to_vec(&answer).expect("answers are plain data");
    line.push(b'\n');
    // Whoever has asked may have gone.
    let _ = stream.write_all(&line);
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
