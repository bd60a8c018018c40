//! The request head (RFC 9112 sections 2 to 6), parsed strictly.
//!
//! Everything that two parsers may read differently is refused, because request smuggling exploits such differences.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

/// Most header fields that fit into the parser's buffer on the stack.
pub const FIELDS: usize = 128;

/// A parsed head, and what it says about the body and the connection.
#[derive(Debug)]
pub struct Head {
    /// Method, target, version and fields.
    pub parts: Parts,
    /// How the body is delimited.
    pub framing: Framing,
    /// May the connection carry another request?
    pub keep_alive: bool,
    /// Does the client wait for 100 (RFC 9110 section 10.1.1)?
    pub expects_continue: bool,
}

/// How the end of the body is found (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// Why a head is refused; the connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadError {
    /// What to answer.
    pub status: StatusCode,
    /// One sentence for the client.
    pub reason: &'static str,
}

const fn bad(reason: &'static str) -> HeadError {
    HeadError { status: StatusCode::BAD_REQUEST, reason }
}

/// Looks for the end of the head in `buffer`; the first `seen` bytes have been searched before.
///
/// Returns the length of the head, including its empty line. Bytes that are not allowed in a head are refused as soon
/// as they arrive, even if their line has no end yet.
pub fn find_end(buffer: &[u8], seen: usize) -> Result<Option<usize>, HeadError> {
    let is_end = |i: &usize| buffer[..=*i].ends_with(b"\r\n\r\n");
    let end = memchr::memchr_iter(b'\n', &buffer[seen..]).map(|i| seen + i).find(is_end).map(|i| i + 1);
    // Starts one byte earlier, so that a CR at the end of the last part is checked together with the byte after it. The
    // checks are folds without branches, because most heads are long and harmless.
    let new = &buffer[seen.saturating_sub(1)..end.unwrap_or(buffer.len())];
    let is_control = |b: &u8| (*b < 0x20 && !matches!(b, b'\t' | b'\r' | b'\n')) || *b == 0x7f;
    if new.iter().fold(false, |found, b| found | is_control(b)) {
        return Err(bad("the head has a control character"));
    }
    let is_torn = |before: u8, after: u8| (before == b'\r') != (after == b'\n');
    let mut pairs = new.iter().zip(new.get(1..).unwrap_or_default());
    if buffer.starts_with(b"\n") || pairs.clone().fold(false, |found, (a, b)| found | is_torn(*a, *b)) {
        return Err(match pairs.find(|(a, b)| is_torn(**a, **b)) {
            Some((b'\r', _)) => bad("a carriage return stands without a line feed"),
            _ => bad("a line ends without a carriage return"),
        });
    }
    Ok(end)
}

/// Parses a whole head, as found by [`find_end`].
pub fn parse(bytes: &[u8], max_fields: usize) -> Result<Head, HeadError> {
    let mut on_stack = [const { MaybeUninit::uninit() }; FIELDS];
    let mut on_heap;
    let room = match on_stack.get_mut(..max_fields) {
        Some(room) => room,
        None => {
            on_heap = vec![MaybeUninit::uninit(); max_fields];
            &mut on_heap[..]
        }
    };
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, room) {
        Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
        Ok(_) => return Err(bad("the head is not complete")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(HeadError {
                status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                reason: "the head has too many fields",
            });
        }
        Err(httparse::Error::Version) => {
            return Err(HeadError {
                status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                reason: "only HTTP/1.1 and HTTP/1.0 are spoken here",
            });
        }
        Err(_) => return Err(bad("the head is malformed")),
    }
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
        .map_err(|_| bad("the method is malformed"))?;
    let headers = fields(bytes, request.headers).ok_or(bad("a field is malformed"))?;
    let host = host(&headers, version)?;
    let uri = target(request.path.unwrap_or_default(), &method, host.as_ref())?;
    let framing = framing(&headers, version)?;
    let keep_alive = keep_alive(&headers, version);
    let expects_continue = version == Version::HTTP_11
        && headers.get(EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));

    let mut parts = http::Request::new(()).into_parts().0;
    (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, version, headers);
    Ok(Head { parts, framing, keep_alive, expects_continue })
}

/// The header fields that httparse found in `head`. Their values share one copy of `head`.
pub fn fields(head: &[u8], found: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut fields = HeaderMap::with_capacity(found.len());
    let copy = Bytes::copy_from_slice(head);
    for field in found {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let start = field.value.as_ptr() as usize - head.as_ptr() as usize;
        let value = copy.slice(start..start + field.value.len());
        fields.append(name, HeaderValue::from_maybe_shared(value).ok()?);
    }
    Some(fields)
}

/// RFC 9112 section 3.2: exactly one Host in HTTP/1.1, at most one in HTTP/1.0.
fn host(headers: &HeaderMap, version: Version) -> Result<Option<Authority>, HeadError> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(bad("there are two Host fields"));
    }
    match first {
        None if version == Version::HTTP_10 => Ok(None),
        None => Err(bad("the Host field is missing")),
        Some(value) => match Authority::try_from(value.as_bytes()) {
            Ok(authority) if authority.as_str().bytes().all(is_host_byte) => Ok(Some(authority)),
            _ => Err(bad("the Host field is malformed")),
        },
    }
}

/// Letters, digits, and the punctuation of host names, addresses and ports. Stricter than RFC 3986.
fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)
}

/// RFC 9112 section 3.2: origin form, absolute form that agrees with Host, or `*` for OPTIONS.
fn target(text: &str, method: &Method, host: Option<&Authority>) -> Result<Uri, HeadError> {
    if !text.bytes().all(|b| (0x21..=0x7e).contains(&b) && !matches!(b, b'#' | b'\\')) {
        return Err(bad("the request target has a character that must be percent-encoded"));
    }
    if method == Method::CONNECT {
        return Err(HeadError { status: StatusCode::METHOD_NOT_ALLOWED, reason: "this is not a tunnel" });
    }
    if text == "*" {
        return match *method == Method::OPTIONS {
            true => Ok(Uri::from_static("*")),
            false => Err(bad("the request target is malformed")),
        };
    }
    let uri: Uri = text.parse().map_err(|_| bad("the request target is malformed"))?;
    if text.starts_with('/') {
        return Ok(uri);
    }
    let agrees = uri.authority().zip(host).is_some_and(|(a, h)| a.as_str().eq_ignore_ascii_case(h.as_str()));
    if !matches!(uri.scheme_str(), Some("http" | "https")) || !agrees {
        return Err(bad("the request target names another host than the Host field"));
    }
    uri.path_and_query().and_then(|p| p.as_str().parse().ok()).ok_or(bad("the request target is malformed"))
}

/// Stricter than RFC 9112 section 6.3: one plain length, or `chunked` and nothing else.
fn framing(headers: &HeaderMap, version: Version) -> Result<Framing, HeadError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), encodings.next()) {
        (None, None) => Ok(Framing::None),
        (Some(_), Some(_)) => Err(bad("both Content-Length and Transfer-Encoding are present")),
        (Some(length), None) => {
            let digits = length.as_bytes();
            if lengths.next().is_some() {
                return Err(bad("there are two Content-Length fields"));
            }
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(bad("the Content-Length is not a number"));
            }
            let text = std::str::from_utf8(digits).unwrap_or_default();
            text.parse().map(Framing::Length).map_err(|_| bad("the Content-Length is too large"))
        }
        (None, Some(encoding)) => {
            if encoding.as_bytes() != b"chunked" || encodings.next().is_some() {
                return Err(bad("the Transfer-Encoding is not exactly 'chunked'"));
            }
            if version == Version::HTTP_10 {
                return Err(bad("HTTP/1.0 has no Transfer-Encoding"));
            }
            Ok(Framing::Chunked)
        }
    }
}

/// RFC 9112 section 9.3.
fn keep_alive(headers: &HeaderMap, version: Version) -> bool {
    let has = |token: &str| connection_tokens(headers).any(|t| t.eq_ignore_ascii_case(token));
    if version == Version::HTTP_11 { !has("close") } else { has("keep-alive") && !has("close") }
}

/// The options that `Connection` lists (RFC 9110 section 7.6.1).
pub fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Head, HeadError> {
        match find_end(text.as_bytes(), 0)? {
            Some(n) => {
                assert_eq!(n, text.len(), "the end was found too early");
                parse(text.as_bytes(), 100)
            }
            None => Err(bad("incomplete")),
        }
    }

    #[test]
    fn a_plain_request_is_read() {
        let head = read("POST /mcp?x=1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\n").unwrap();
        assert_eq!(head.parts.uri.path(), "/mcp");
        assert_eq!(head.framing, Framing::Length(5));
        assert!(head.keep_alive && !head.expects_continue);
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        let long = format!("Content-Length: {}\r\n", "9".repeat(30));
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 1 1\r\n",
            long.as_str(),
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: Chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding\t: chunked\r\n",
            "X: a\nTransfer-Encoding: chunked\r\n",
            "X: a\rTransfer-Encoding: chunked\r\n",
            "X: a\r\n Transfer-Encoding: chunked\r\n",
            "X: a\r\n\tb\r\n",
            " X: a\r\n",
            "X: a\0b\r\n",
            "X: a\u{1}b\r\n",
            "X: a\u{7f}b\r\n",
            "X\0: a\r\n",
            "X y: a\r\n",
            ": a\r\n",
            "X\r\n",
            "Host: b\r\n",
        ] {
            let text = format!("POST /mcp HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            match read(&text) {
                Err(error) => assert_eq!(error.status, 400, "{fields:?}"),
                Ok(head) => panic!("{fields:?} was read as {head:?}"),
            }
        }
    }

    #[test]
    fn request_lines() {
        for (line, status) in [
            ("GET / HTTP/1.1", 200),
            ("GET http://a/x HTTP/1.1", 200),
            ("OPTIONS * HTTP/1.1", 200),
            ("GET  / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("GET /\tx HTTP/1.1", 400),
            ("GET /#x HTTP/1.1", 400),
            ("GET x HTTP/1.1", 400),
            ("GET * HTTP/1.1", 400),
            ("GET http://b/ HTTP/1.1", 400),
            ("GET ftp://a/ HTTP/1.1", 400),
            ("GET /\u{e9} HTTP/1.1", 400),
            ("CONNECT a:1 HTTP/1.1", 405),
            ("GET / HTTP/2.0", 505),
            ("GET / HTTP/1.2", 505),
            ("GET /", 400),
            ("G(T / HTTP/1.1", 400),
            ("PRI * HTTP/2.0", 505),
        ] {
            let found = read(&format!("{line}\r\nHost: a\r\n\r\n")).map_or_else(|e| e.status.as_u16(), |_| 200);
            assert_eq!(found, status, "{line}");
        }
    }

    #[test]
    fn the_host_is_present_once() {
        let with = |version: &str, host: &str| read(&format!("GET / HTTP/{version}\r\n{host}\r\n")).is_ok();
        assert!(with("1.1", "Host: a\r\n") && with("1.0", "") && with("1.1", "Host: [::1]:80\r\n"));
        for host in [
            "",
            "Host: a\r\nHost: a\r\n",
            "Host: \r\n",
            "Host: a b\r\n",
            "Host: u@a\r\n",
            "Host: a/b\r\n",
            "Host: a,b\r\n",
        ] {
            assert!(!with("1.1", host), "{host:?}");
        }
        assert!(!with("1.0", "Host: a\r\nHost: b\r\n"));
    }

    #[test]
    fn connections_persist_as_the_version_says() {
        let keeps = |version: &str, field: &str| {
            read(&format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n")).unwrap().keep_alive
        };
        assert!(
            keeps("1.1", "") && !keeps("1.1", "Connection: close\r\n") && !keeps("1.1", "Connection: x, Close\r\n")
        );
        assert!(!keeps("1.0", "") && keeps("1.0", "Connection: keep-alive\r\n"));
    }

    #[test]
    fn the_end_is_found_however_the_bytes_arrive() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(find_end(&text[..cut], 0), Ok(None), "{cut}");
            assert_eq!(find_end(text, cut), Ok(Some(text.len())), "{cut}");
        }
        assert!(find_end(b"GET / HTTP/1.1\n\n", 0).is_err());
        assert!(find_end(b"GET /\0", 0).is_err());
    }
}
