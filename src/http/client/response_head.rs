//! The head of an answer, and how the end of its body is found (RFC 9112 sections 4 and 6.3).

use std::mem::MaybeUninit;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};

use crate::http::h1::head::{self, Framing, connection_tokens};

/// The head of an answer.
pub(super) struct ResponseHead {
    /// Its length in bytes, including the empty line.
    pub(super) size: usize,
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) keep_alive: bool,
    is_http11: bool,
}

impl ResponseHead {
    /// Parses the head at the beginning of `bytes`; `None` if it is not complete yet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<ResponseHead>, &'static str> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut found = [const { MaybeUninit::uninit() }; head::FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let size = match parser.parse_response_with_uninit_headers(&mut response, bytes, &mut found) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err("the head of its answer has too many fields"),
            Err(_) => return Err("its answer is not HTTP/1.1"),
        };
        let status =
            StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| "its status code is not valid")?;
        let fields = head::fields(&bytes[..size], response.headers).ok_or("a field of its answer is malformed")?;
        let says = |token: &str| connection_tokens(&fields).any(|t| t.eq_ignore_ascii_case(token));
        let is_http11 = response.version == Some(1);
        let keep_alive = !says("close") && (is_http11 || says("keep-alive"));
        Ok(Some(ResponseHead { size, status, fields, keep_alive, is_http11 }))
    }

    /// How the end of the body is found; `None` if the body ends with the connection (RFC 9112 section 6.3).
    pub(super) fn framing(&self, method: &Method) -> Result<Option<Framing>, &'static str> {
        let mut encodings = self.fields.get_all(TRANSFER_ENCODING).iter();
        let encoding = encodings.next();
        // Intermediaries on the way may use the second field, or ignore both.
        if encodings.next().is_some() {
            return Err("its answer has two Transfer-Encoding fields");
        }
        if encoding.is_some() && !self.is_http11 {
            return Err("its answer is HTTP/1.0 and has a Transfer-Encoding");
        }
        let length = self.length()?;
        if *method == Method::HEAD || matches!(self.status.as_u16(), 204 | 304) {
            return Ok(Some(Framing::None));
        }
        match (encoding, length) {
            (Some(_), Some(_)) => Err("its answer has both Content-Length and Transfer-Encoding"),
            (Some(e), None) if e.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
            (Some(_), None) => Err("its answer has a Transfer-Encoding other than chunked"),
            (None, Some(n)) => Ok(Some(Framing::Length(n))),
            (None, None) => Ok(None),
        }
    }

    fn length(&self) -> Result<Option<u64>, &'static str> {
        let mut fields = self.fields.get_all(CONTENT_LENGTH).iter();
        let Some(first) = fields.next() else { return Ok(None) };
        if fields.any(|f| f != first) {
            return Err("its answer has two lengths");
        }
        let digits = first.to_str().ok().filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|d| d.parse().ok()).map(Some).ok_or("the Content-Length of its answer is not a number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_answer_is_found_or_the_answer_refused() {
        let framing = |fields: &str| {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            ResponseHead::parse(text.as_bytes()).map(|h| h.expect("whole")).and_then(|h| h.framing(&Method::GET))
        };
        assert_eq!(framing(""), Ok(None));
        assert_eq!(framing("Content-Length: 5\r\n"), Ok(Some(Framing::Length(5))));
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Some(Framing::Length(5))));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Some(Framing::Chunked)));
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            " X: a\r\n",
        ] {
            assert!(framing(fields).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn connections_are_kept_as_the_answer_says() {
        let keeps = |text: &str| ResponseHead::parse(text.as_bytes()).unwrap().unwrap().keep_alive;
        assert!(keeps("HTTP/1.1 200 OK\r\n\r\n") && keeps("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keeps("HTTP/1.0 200 OK\r\n\r\n") && !keeps("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n"));
    }
}
