//! Splits a stream of bytes into lines.

/// Bytes that are kept from the start and from the end of a line that is too long.
const KEPT: usize = 128;

/// Collects bytes until a line is whole.
pub struct Lines {
    bytes: Vec<u8>,
    limit: usize,
    /// Set inside a line that is too long; its bytes are dropped up to the line end.
    skipped: Option<TooLong>,
}

/// A line that was longer than the limit; only its start and its end are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TooLong {
    /// Most bytes that a line may have.
    pub limit: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl TooLong {
    /// The id of the request that the line answers, as it was written, if the start or the end of the line shows it.
    /// Finds only ids that consist of digits.
    pub fn answered(&self) -> Option<&str> {
        const NAME: &str = "\"id\":";
        const VERSION: &str = "\"jsonrpc\":\"2.0\",";
        let head = self.head.iter().position(|b| !b.is_ascii_graphic()).map_or(&self.head[..], |end| &self.head[..end]);
        let head = std::str::from_utf8(head).unwrap_or_default();
        // The id must be a member of the message itself: only `jsonrpc` may come before it at the start, or after it at
        // the end.
        let first =
            head.strip_prefix('{').map(|h| h.strip_prefix(VERSION).unwrap_or(h)).and_then(|h| h.strip_prefix(NAME));
        if let Some(id) = first.and_then(|rest| rest.split(',').next()).filter(|id| is_number(id)) {
            return Some(id);
        }
        let start = self.tail.iter().rposition(|b| !b.is_ascii()).map_or(0, |at| at + 1);
        let tail = std::str::from_utf8(&self.tail[start..]).unwrap_or_default().strip_suffix('}')?;
        let tail = tail.strip_suffix(",\"jsonrpc\":\"2.0\"").unwrap_or(tail);
        let (_, id) = tail.rsplit_once(",\"id\":")?;
        is_number(id).then_some(id)
    }

    fn add(&mut self, part: &[u8]) {
        let room = KEPT - self.head.len().min(KEPT);
        self.head.extend_from_slice(&part[..part.len().min(room)]);
        self.tail.extend_from_slice(&part[part.len().saturating_sub(KEPT)..]);
        self.tail.drain(..self.tail.len().saturating_sub(KEPT));
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() < 20 && text.bytes().all(|b| b.is_ascii_digit())
}

impl Lines {
    /// An empty buffer for lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Lines {
        Lines { bytes: Vec::new(), limit, skipped: None }
    }

    /// Adds `bytes` and passes every complete line to `take`, without its line end and surrounding whitespace. Skips
    /// empty lines.
    pub fn add(&mut self, bytes: &[u8], mut take: impl FnMut(Result<Vec<u8>, TooLong>)) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (head, tail) = rest.split_at(end);
            rest = &tail[1..];
            self.extend(head);
            self.finish(&mut take);
        }
        self.extend(rest);
    }

    /// Ends the current line and passes it to `take`. At the end of the stream, the unfinished line counts as a line.
    pub fn finish(&mut self, mut take: impl FnMut(Result<Vec<u8>, TooLong>)) {
        let line = std::mem::take(&mut self.bytes);
        match self.skipped.take() {
            Some(line) => take(Err(line)),
            None => take_line(line, &mut take),
        }
    }

    fn extend(&mut self, part: &[u8]) {
        if self.skipped.is_none() && self.bytes.len() + part.len() > self.limit {
            let mut line = TooLong { limit: self.limit, ..TooLong::default() };
            line.add(&std::mem::take(&mut self.bytes));
            self.skipped = Some(line);
        }
        match &mut self.skipped {
            Some(line) => line.add(part),
            None => self.bytes.extend_from_slice(part),
        }
    }
}

fn take_line(mut line: Vec<u8>, take: &mut impl FnMut(Result<Vec<u8>, TooLong>)) {
    line.truncate(line.trim_ascii_end().len());
    line.drain(..line.len() - line.trim_ascii_start().len());
    if !line.is_empty() {
        take(Ok(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str], limit: usize) -> Vec<Result<String, TooLong>> {
        let (mut lines, mut out) = (Lines::new(limit), Vec::new());
        let mut take = |line: Result<Vec<u8>, TooLong>| out.push(line.map(|l| String::from_utf8(l).unwrap()));
        for piece in pieces {
            lines.add(piece.as_bytes(), &mut take);
        }
        lines.finish(&mut take);
        out
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let ok = |texts: &[&str]| texts.iter().map(|t| Ok(t.to_string())).collect::<Vec<_>>();
        for pieces in [&["ab\ncd\n"][..], &["a", "b\nc", "d", "\n"], &["ab", "\n", "cd"], &["\r\n ab \r\n\n\ncd"]] {
            assert_eq!(lines(pieces, 8), ok(&["ab", "cd"]), "{pieces:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_is_not() {
        let too_long = |text: &str| Err(TooLong { limit: 4, head: text.into(), tail: text.into() });
        let ok = |text: &str| Ok(text.to_string());
        assert_eq!(lines(&["12345678\nok\n"], 4), vec![too_long("12345678"), ok("ok")]);
        assert_eq!(lines(&["123", "45", "678", "9\no", "k"], 4), vec![too_long("123456789"), ok("ok")]);
        assert_eq!(lines(&["12345"], 4), vec![too_long("12345")]);
        assert_eq!(lines(&["1234\n"], 4), vec![ok("1234")]);
    }

    #[test]
    fn a_line_that_is_too_long_tells_what_it_answers() {
        let long = "x".repeat(1_000);
        let answered = |text: &str| {
            let mut out = None;
            let mut collected = Lines::new(100);
            // In small pieces.
            for piece in text.as_bytes().chunks(7) {
                collected.add(piece, |_| panic!("the line has not ended"));
            }
            collected.finish(|line| out = line.unwrap_err().answered().map(String::from));
            out
        };
        for text in [
            format!(r#"{{"jsonrpc":"2.0","id":12,"result":{{"text":"{long}"}}}}"#),
            format!(r#"{{"id":12,"jsonrpc":"2.0","result":{{"text":"{long}"}}}}"#),
            format!(r#"{{"result":{{"text":"{long}"}},"jsonrpc":"2.0","id":12}}"#),
            format!(r#"{{"jsonrpc":"2.0","result":{{"text":"{long}"}},"id":12}}"#),
            format!(r#"{{"result":{{"text":"ü{long}ü"}},"id":12,"jsonrpc":"2.0"}}"#),
        ] {
            assert_eq!(answered(&text).as_deref(), Some("12"), "{text}");
        }
        for text in [
            long.clone(),
            format!(r#"{{"jsonrpc":"2.0","id":"12","result":{{"text":"{long}"}}}}"#),
            format!(r#"{{"jsonrpc":"2.0","method":"m","params":{{"text":"{long}","id":12}}}}"#),
            format!(r#"{{"jsonrpc":"2.0","result":{{"text":"{long},\"id\":12}}"}}}}"#),
        ] {
            assert_eq!(answered(&text), None, "{text}");
        }
    }
}
