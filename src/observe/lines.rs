//! Lines for a file or a standard stream, written by a thread of their own: whoever has a line never waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::lock::Unpoisoned;
use crate::observe::log::Episode;
use crate::thread::spawn;

/// Most bytes that wait to be written, also while they can't be. More lines are lost, and their number is logged.
const MAX_PENDING: usize = 4 << 20;
/// Most memory that is kept for the next lines.
const MAX_KEPT: usize = 512 << 10;
/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(20);
/// How long after a failure the next attempt is made.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

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
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640);
        // A pipe that nobody reads from must not hold the thread.
        options.custom_flags(OFlags::NONBLOCK.bits() as i32).open(path).map(Some)
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
    failing: Episode,
}

/// How long lines may wait before that counts as trouble: for a disk that hangs, or a reader that has stopped.
const TOO_LONG: Duration = Duration::from_secs(5);

/// What the thread is writing.
#[derive(Default)]
struct Batch {
    file: Option<File>,
    bytes: Vec<u8>,
    /// How many of them are written.
    done: usize,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    lost: u64,
    reopen: bool,
    is_writing: bool,
    /// When the oldest line that is not written yet came.
    oldest: Option<Instant>,
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
            failing: Episode::default(),
        });
        let writer = shared.clone();
        spawn("line writer", move || writer.write(file))?;
        Ok(Lines(shared))
    }

    /// Adds a line in parts, the last of which ends with a line break. Never waits.
    pub fn put(&self, line: &[&str]) {
        let length: usize = line.iter().map(|part| part.len()).sum();
        let mut pending = self.0.pending.lock().unpoisoned();
        if pending.bytes.len() + length > MAX_PENDING {
            pending.lost += 1;
            return;
        }
        let was_empty = pending.bytes.is_empty();
        line.iter().for_each(|part| pending.bytes.extend_from_slice(part.as_bytes()));
        if was_empty && pending.oldest.is_none() {
            pending.oldest = Some(Instant::now());
        }
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

    /// Could lines be lost? They could if writing fails at the moment, hangs, or is far behind.
    pub fn is_in_trouble(&self) -> bool {
        let pending = self.0.pending.lock().unpoisoned();
        let is_late = pending.oldest.is_some_and(|oldest| oldest.elapsed() > TOO_LONG);
        self.0.failing.lasts() || is_late || pending.bytes.len() > MAX_PENDING / 2
    }

    /// Can the destination be opened? The error is one line.
    pub fn check(&self) -> Result<(), String> {
        let opened = self.0.destination.open();
        opened.map(drop).map_err(|e| format!("{} can't be opened: {e}", self.0.name))
    }

    /// Waits until what has been added is written, at most for `patience`.
    pub fn flush(&self, patience: Duration) {
        let pending = self.0.pending.lock().unpoisoned();
        let is_busy = |pending: &mut Pending| pending.is_writing || !pending.bytes.is_empty();
        let (pending, waited) = self.0.written.wait_timeout_while(pending, patience, is_busy).unpoisoned();
        if waited.timed_out() && pending.oldest.is_some() {
            log::error!("{} could not be written in time: its last lines are lost", self.0.name);
        }
    }
}

impl Shared {
    fn write(&self, file: Option<File>) {
        let mut batch = Batch { file, ..Batch::default() };
        loop {
            let lost = self.fill(&mut batch);
            let result = batch.write(&self.destination);
            let failed = result.is_err();
            match result {
                Err(e) if self.failing.begins() => {
                    log::error!(error:% = e; "{} can't be written: lines wait, and are lost when there are more than 4 MiB; free space, or correct the path", self.name);
                }
                Ok(()) if self.failing.ends() => log::info!("{} is written again", self.name),
                _ => {}
            }
            if lost > 0 {
                log::warn!(lines = lost; "{} lost lines: they came faster than they could be written", self.name);
            }
            let mut pending = self.pending.lock().unpoisoned();
            pending.is_writing = failed;
            if !failed {
                pending.oldest = (!pending.bytes.is_empty()).then(Instant::now);
            }
            drop(pending);
            self.written.notify_all();
            if failed {
                batch.file = None;
                std::thread::sleep(AFTER_FAILURE);
            }
        }
    }

    /// Takes what waits, if all before it is written. Returns how many lines were lost.
    fn fill(&self, batch: &mut Batch) -> u64 {
        let mut pending = self.pending.lock().unpoisoned();
        if batch.is_done() {
            drop(self.wake.wait_while(pending, |pending| pending.bytes.is_empty() && !pending.reopen).unpoisoned());
            std::thread::sleep(GATHER);
            pending = self.pending.lock().unpoisoned();
            pending.is_writing = true;
            // What is written becomes what is filled next: its memory is there already.
            batch.bytes.clear();
            std::mem::swap(&mut batch.bytes, &mut pending.bytes);
            batch.done = 0;
            // After a flood, it is given back.
            pending.bytes.shrink_to(MAX_KEPT);
        }
        if std::mem::take(&mut pending.reopen) {
            batch.file = None;
            batch.rewind();
        }
        // How many, when it is known.
        if self.failing.lasts() { 0 } else { std::mem::take(&mut pending.lost) }
    }
}

impl Batch {
    fn is_done(&self) -> bool {
        self.done == self.bytes.len()
    }

    /// Another file begins with a whole line.
    fn rewind(&mut self) {
        if !self.is_done() {
            self.done = self.bytes[..self.done].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        }
    }

    fn write(&mut self, destination: &Destination) -> io::Result<()> {
        if self.file.is_none() {
            self.file = destination.open()?;
        }
        let mut patience = 100;
        while !self.is_done() {
            let rest = &self.bytes[self.done..];
            let written = match destination {
                Destination::Stderr => io::stderr().lock().write(rest),
                Destination::Stdout => {
                    let mut out = io::stdout().lock();
                    out.write(rest).and_then(|n| out.flush().map(|()| n))
                }
                Destination::File(_) => self.file.as_mut().map_or(Ok(0), |file| file.write(rest)),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A pipe that is full for a moment.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(GATHER);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
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
                scope.spawn(move || (0..200).for_each(|i| lines.put(&[&format!("{thread} {i}"), "\n"])));
            }
        });
        lines.flush(PATIENCE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1_600);
        assert!(text.lines().all(|line| line.split_once(' ').is_some_and(|(t, i)| t.len() == 1 && i.len() <= 3)));
        std::fs::rename(&path, &old).unwrap();
        lines.reopen();
        lines.put(&["after\n"]);
        lines.flush(PATIENCE);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(std::fs::read_to_string(&old).unwrap(), text);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_line_that_is_cut_goes_on_and_is_whole_in_another_file() {
        let mut batch = Batch { bytes: b"one\ntwo\nthree\n".to_vec(), done: 6, ..Batch::default() };
        batch.rewind();
        assert_eq!(batch.done, 4);
        batch.done = 2;
        batch.rewind();
        assert_eq!(batch.done, 0);
        batch.done = batch.bytes.len();
        batch.rewind();
        assert!(batch.is_done());
    }

    #[test]
    fn a_file_that_can_not_be_opened_is_named() {
        let refused = Lines::open("--test (TEST)", Destination::parse("/nowhere/at/all")).err().unwrap();
        assert!(refused.starts_with("--test (TEST): /nowhere/at/all can't be opened"), "{refused}");
    }
}
