//! Lines out of a stream of bytes.

/// Collects bytes until a line is whole.
pub struct Lines {
    bytes: Vec<u8>,
    limit: usize,
    /// Within a line that was too long: dropped up to its end.
    is_skipping: bool,
}

/// What a line was longer than.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

impl Lines {
    /// No bytes yet; a line may have `limit` of them.
    pub fn new(limit: usize) -> Lines {
        Lines { bytes: Vec::new(), limit, is_skipping: false }
    }

    /// Adds `bytes` and hands every line that is whole to `take`, without its end and the blanks around it. Empty lines
    /// are none.
    pub fn add(&mut self, bytes: &[u8], mut take: impl FnMut(Result<Vec<u8>, TooLong>)) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (head, tail) = rest.split_at(end);
            rest = &tail[1..];
            self.extend(head, &mut take);
            let line = std::mem::take(&mut self.bytes);
            if !std::mem::take(&mut self.is_skipping) {
                take_line(line, &mut take);
            }
        }
        self.extend(rest, &mut take);
    }

    /// The stream has ended: what there is of a line is one.
    pub fn finish(&mut self, mut take: impl FnMut(Result<Vec<u8>, TooLong>)) {
        take_line(std::mem::take(&mut self.bytes), &mut take);
    }

    fn extend(&mut self, part: &[u8], take: &mut impl FnMut(Result<Vec<u8>, TooLong>)) {
        if self.is_skipping {
            return;
        }
        if self.bytes.len() + part.len() > self.limit {
            self.bytes = Vec::new();
            self.is_skipping = true;
            return take(Err(TooLong(self.limit)));
        }
        self.bytes.extend_from_slice(part);
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
        let want = vec![Err(TooLong(4)), Ok("ok".to_string())];
        assert_eq!(lines(&["12345678\nok\n"], 4), want);
        assert_eq!(lines(&["123", "45", "678", "9\no", "k"], 4), want);
        assert_eq!(lines(&["1234\n"], 4), vec![Ok("1234".to_string())]);
    }
}
