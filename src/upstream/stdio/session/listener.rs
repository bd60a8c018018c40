//! Handles what a session's process writes, and its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::handle::Session;
use super::state::{Link, RequestStream, SessionState};
use crate::mcp::jsonrpc::{INTERNAL_ERROR, error_message};
use crate::mcp::message::{Id, Message, split};
use crate::upstream::stdio::backoff::{AT_ONCE, pause_after};
use crate::upstream::stdio::event_stream::EventStream;
use crate::upstream::stdio::noise::{note_noise, text_of};
use crate::upstream::stdio::process::lines::TooLong;

/// If the streams of a session hold more bytes than this, events that were already sent are dropped. Until then, a
/// reconnecting client can read them again.
const REPLAY: usize = 1 << 20;
/// Streams kept for clients that come back.
const MAX_STREAMS: usize = 64;

impl Session {
    /// The child wrote a line.
    pub(super) fn line(self: &Arc<Self>, generation: u64, line: Vec<u8>) {
        let Some(text) = text_of(line, self.name()) else { return };
        let Ok((texts, _)) = split(&text) else { return note_noise(&text, self.name()) };
        let messages: Vec<_> = texts
            .iter()
            .filter_map(|part| Message::parse(part).inspect_err(|_| note_noise(part, self.name())).ok())
            .collect();
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        // Save changes of the replay state before the client gets the answer that confirms them.
        if messages.iter().filter(|message| state.learn_from(message)).count() > 0 {
            drop(state);
            self.save();
            state = self.state();
            if state.generation != generation {
                return;
            }
        }
        messages.iter().for_each(|message| state.route(message, self.name()));
        self.make_room(&mut state);
        let is_over = matches!(state.link, Link::Ended);
        drop(state);
        if is_over {
            self.processes.forget(self.name());
        }
    }

    pub(super) fn long_line(&self, generation: u64, line: &TooLong) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        let why = format!("the MCP server wrote a message of more than {} bytes", line.limit);
        if matches!(state.link, Link::Starting { .. }) {
            state.generation += 1;
            return state.fail(why);
        }
        let answered = line.answered().and_then(|id| id.parse().ok()).map(Id::Number);
        // With a single request in flight, treat the line as its answer.
        let only = || state.pending.keys().next().filter(|_| state.pending.len() == 1).cloned();
        if let Some(pending) = answered.or_else(only).and_then(|id| state.pending.remove(&id)) {
            state.answer_with_error(&pending, &why);
        }
    }

    pub(super) fn ended(&self, generation: u64, lived: Duration) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        let was_starting = matches!(state.link, Link::Starting { .. });
        state.crashes = if lived < AT_ONCE { state.crashes + 1 } else { 0 };
        // No pause after the first crash if the process had answered `initialize`: it may just have been killed.
        if state.crashes > u32::from(!was_starting) {
            state.not_before = Some(Instant::now() + pause_after(state.crashes));
        }
        state.fail(
            match was_starting {
                true => "the MCP server ended before it answered initialize; its operator finds the reason in the log",
                false => "the MCP server ended while it worked on this request; the session goes on with a new one",
            }
            .into(),
        );
        if self.has_one_stream() {
            state.general.finish();
        }
    }

    /// Keeps the streams within their limits. Drops first what was already sent, then unread events of streams without
    /// a client, then unread events of connected streams.
    pub(super) fn make_room(&self, state: &mut SessionState) {
        let held = || self.held.load(Ordering::Relaxed);
        let is_over = |s: &EventStream| s.is_finished() && !s.is_connected();
        for wants_read in [true, false] {
            while (wants_read && held() > REPLAY) || state.streams.len() > MAX_STREAMS {
                let is_next = |s: &RequestStream| is_over(&s.stream) && s.stream.is_read() == wants_read;
                let Some(i) = state.streams.iter().position(is_next) else { break };
                state.streams.remove(i);
            }
        }
        let all = || std::iter::once(&state.general).chain(state.streams.iter().map(|s| &s.stream));
        for stream in all().filter(|_| held() > REPLAY) {
            stream.forget(false);
        }
        for wants_connected in [false, true] {
            for stream in all() {
                if held() > self.processes.buffer() && stream.is_connected() == wants_connected {
                    log::warn!(session = self.name(); "messages for a client that does not read them are dropped (--stdio-buffer, STDIO_BUFFER)");
                    stream.forget(true);
                    // A client that asks for the dropped answer gets at least an error.
                    for lost in state.streams.iter().filter(|s| Arc::ptr_eq(&s.stream, stream) && stream.is_finished())
                    {
                        for id in &lost.raw_ids {
                            let why = "the answer was dropped: the client reads too slowly";
                            stream.push(error_message(id, INTERNAL_ERROR, why).into_bytes());
                        }
                    }
                }
            }
        }
    }
}
