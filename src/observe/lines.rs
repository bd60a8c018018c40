//! Lines for a file or a standard stream, written by a thread of their own: whoever has a line never waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::lock::Unpoisoned;
use crate::observe::log::Episode;
use crate::thread::spawn;

/// Most bytes that wait to be written. More lines are lost, and their number is logged.
const MAX_PENDING: usize = 4 << 20;
/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(20);
/// How long after a failure the next attempt is made.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, to whose end they are appended.
    File(PathBuf),
}

impl Destination {
    /// `stderr`, `stdout` or the path of a file.
    pub fn parse(text: &str) -> Destination {
        match text {
            "stderr" => Destination::Stderr,
            "stdout" => Destination::Stdout,
            path => Destination::File(path.into()),
        }
    }

    fn open(&self) -> io::Result<Option<File>> {
        let Destination::File(path) = self else { return Ok(None) };
        // Names of users are nobody else's business; the group may read, as a log shipper does.
        OpenOptions::new().append(true).create(true).mode(0o640).open(path).map(Some)
    }
}

/// Takes lines.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    /// What it is called in messages: the flag and its variable.
    name: &'static str,
    destination: Destination,
    pending: Mutex<Pending>,
    wake: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    lost: u64,
    reopen: bool,
    is_writing: bool,
}

impl Lines {
    /// Opens the destination and starts the thread. `name` is the flag and its variable.
    pub fn open(name: &'static str, destination: Destination) -> Result<Lines, String> {
        let file = destination.open().map_err(|e| match &destination {
            Destination::File(path) => format!("{name}: {} can't be opened: {e}", path.display()),
            _ => format!("{name}: {e}"),
        })?;
        let shared = Arc::new(Shared {
            name,
            destination,
            pending: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
        });
        let writer = shared.clone();
        spawn("line writer", move || writer.write(file))?;
        Ok(Lines(shared))
    }

    /// Adds a line, which ends with a line break. Never waits.
    pub fn put(&self, line: &[u8]) {
        let mut pending = self.0.pending.lock().unpoisoned();
        if pending.bytes.len() + line.len() > MAX_PENDING {
            pending.lost += 1;
            return;
        }
        let was_empty = pending.bytes.is_empty();
        pending.bytes.extend_from_slice(line);
        drop(pending);
        if was_empty {
            self.0.wake.notify_one();
        }
    }

    /// Opens the file anew before the next line, after something else has renamed it.
    pub fn reopen(&self) {
        self.0.pending.lock().unpoisoned().reopen = true;
        self.0.wake.notify_one();
    }

    /// Waits until what has been added is written, at most for `patience`.
    pub fn flush(&self, patience: Duration) {
        let pending = self.0.pending.lock().unpoisoned();
        let is_busy = |pending: &mut Pending| pending.is_writing || !pending.bytes.is_empty();
        let _ = self.0.written.wait_timeout_while(pending, patience, is_busy);
    }
}

impl Shared {
    fn write(&self, mut file: Option<File>) {
        let failing = Episode::default();
        loop {
            let (bytes, lost, reopen) = self.next();
            if reopen {
                file = None;
            }
            let result = self.write_once(&mut file, &bytes);
            let failed = result.is_err();
            match result {
                Err(e) if failing.begins() => {
                    log::error!(error:% = e; "{} can't be written: lines are lost until it can; free space, or correct the path", self.name);
                }
                Ok(()) if failing.ends() => log::info!("{} is written again", self.name),
                _ => {}
            }
            if lost > 0 {
                log::warn!(lines = lost; "{} lost lines: they came faster than they could be written", self.name);
            }
            self.pending.lock().unpoisoned().is_writing = false;
            self.written.notify_all();
            if failed {
                file = None;
                std::thread::sleep(AFTER_FAILURE);
            }
        }
    }

    fn next(&self) -> (Vec<u8>, u64, bool) {
        let pending = self.pending.lock().unpoisoned();
        drop(self.wake.wait_while(pending, |pending| pending.bytes.is_empty() && !pending.reopen).unpoisoned());
        std::thread::sleep(GATHER);
        let mut pending = self.pending.lock().unpoisoned();
        pending.is_writing = true;
        let lost = std::mem::take(&mut pending.lost);
        (std::mem::take(&mut pending.bytes), lost, std::mem::take(&mut pending.reopen))
    }

    fn write_once(&self, file: &mut Option<File>, bytes: &[u8]) -> io::Result<()> {
        match &self.destination {
            Destination::Stderr => io::stderr().lock().write_all(bytes),
            Destination::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Destination::File(_) => {
                if file.is_none() {
                    *file = self.destination.open()?;
                }
                file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn lines_of_many_threads_arrive_whole_and_a_renamed_file_is_left() {
        let directory = std::env::temp_dir().join(format!("lines-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (path, old) = (directory.join("log"), directory.join("log.1"));
        let lines = Lines::open("--test (TEST)", Destination::File(path.clone())).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let lines = &lines;
                scope.spawn(move || (0..200).for_each(|i| lines.put(format!("{thread} {i}\n").as_bytes())));
            }
        });
        lines.flush(PATIENCE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1_600);
        assert!(text.lines().all(|line| line.split_once(' ').is_some_and(|(t, i)| t.len() == 1 && i.len() <= 3)));
        std::fs::rename(&path, &old).unwrap();
        lines.reopen();
        lines.put(b"after\n");
        lines.flush(PATIENCE);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(std::fs::read_to_string(&old).unwrap(), text);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_file_that_can_not_be_opened_is_named() {
        let refused = Lines::open("--test (TEST)", Destination::parse("/nowhere/at/all")).err().unwrap();
        assert!(refused.starts_with("--test (TEST): /nowhere/at/all can't be opened"), "{refused}");
    }
}
