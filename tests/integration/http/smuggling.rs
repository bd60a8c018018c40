//! Request smuggling: each family that has been published, with a request inside it that must never be served, on
//! connections of a client that may reach the upstream server.

use std::net::Shutdown;

use crate::support::flow::Client;
use crate::support::proxy::Proxy;
use crate::support::upstream::{FakeUpstream, Received};
use crate::support::wire::Connection;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Refused with this status, and the connection closed behind it.
    Refused(u16),
    /// Served as one request whose body is what the framing says.
    Body(&'static str),
}
use Fate::{Body, Refused};

/// A request that runs when a parser loses its place.
const CANARY: &str = "GET /canary HTTP/1.1\r\nHost: localhost\r\nAuthorization: TOKEN\r\n\r\n";

/// Name, what follows the request line and the fields that every request has, what becomes of it.
const FAMILIES: &[(&str, &str, Fate)] = &[
    // Two lengths.
    ("CL.TE", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("CL.CL", "Content-Length: 0\r\nContent-Length: 5\r\n\r\nCANARY", Refused(400)),
    ("CL.CL, the same", "Content-Length: 5\r\nContent-Length: 5\r\n\r\nCANARY", Refused(400)),
    ("CL list", "Content-Length: 0, 5\r\n\r\nCANARY", Refused(400)),
    ("CL.0", "Content-Length: 0\r\n\r\n", Body("")),
    ("CL, then nothing", "Content-Length: 5\r\n\r\nhelloCANARY-IS-NEXT", Body("hello")),
    // Lengths that some read as others.
    ("CL plus", "Content-Length: +0\r\n\r\nCANARY", Refused(400)),
    ("CL minus", "Content-Length: -0\r\n\r\nCANARY", Refused(400)),
    ("CL hex", "Content-Length: 0x0\r\n\r\nCANARY", Refused(400)),
    ("CL exponent", "Content-Length: 0e0\r\n\r\nCANARY", Refused(400)),
    ("CL underscore", "Content-Length: 0_0\r\n\r\nCANARY", Refused(400)),
    ("CL inner space", "Content-Length: 0 0\r\n\r\nCANARY", Refused(400)),
    ("CL empty", "Content-Length:\r\n\r\nCANARY", Refused(400)),
    ("CL quoted", "Content-Length: \"0\"\r\n\r\nCANARY", Refused(400)),
    ("CL wraps to 0", "Content-Length: 18446744073709551616\r\n\r\nCANARY", Refused(400)),
    ("CL wraps to 0 in 32 bits", "Content-Length: 4294967296\r\n\r\nCANARY", Refused(413)),
    // Transfer codings that some know and others don't.
    ("TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE.0", "Transfer-Encoding: identity\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE unknown", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE list", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE not last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE upper case", "Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE quoted", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE comma", "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE parameter", "Transfer-Encoding: chunked;x\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE vertical tab", "Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE no-break space", "Transfer-Encoding:\u{a0}chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE empty", "Transfer-Encoding:\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE space before colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE tab before colon", "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE folded", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE hidden by a fold", "X: x\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE behind a bare LF", "X: x\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE behind a bare CR", "X: x\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("TE behind a NUL", "X: x\0Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("name in two words", "Foo Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("name without value", "Transfer-Encoding\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("name empty", ": chunked\r\n\r\nCANARY", Refused(400)),
    ("first field begins with a space", " Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nCANARY", Refused(400)),
    ("underscore TE is another field", "Transfer_Encoding: chunked\r\n\r\n", Body("")),
    ("underscore CL is another field", "Content_Length: 500\r\n\r\n", Body("")),
    // Ends of heads and lines.
    ("head ends with two LF", "X: x\n\nCANARY", Refused(400)),
    ("head ends with LF CR LF", "X: x\n\r\nCANARY", Refused(400)),
    ("head ends with CR CR", "X: x\r\rCANARY", Refused(400)),
    ("CR CR LF", "X: x\r\r\n\r\nCANARY", Refused(400)),
    // Chunks.
    ("chunked", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Body("hello")),
    ("chunk size with LF", "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\nCANARY", Refused(400)),
    ("chunk size with CR", "Transfer-Encoding: chunked\r\n\r\n5\rhello\r\n0\r\n\r\nCANARY", Refused(400)),
    ("chunk data ends with LF", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\nCANARY", Refused(400)),
    ("chunk data spills over", "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\nCANARY", Refused(400)),
    ("chunk data without an end", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\nCANARY", Refused(400)),
    ("chunk size plus", "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\nCANARY", Refused(400)),
    ("chunk size minus", "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\nCANARY", Refused(400)),
    ("chunk size 0x", "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\nCANARY", Refused(400)),
    (
        "chunk size with a space before",
        "Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\nCANARY",
        Refused(400),
    ),
    (
        "chunk size with a space behind",
        "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\nCANARY",
        Refused(400),
    ),
    ("chunk size underscore", "Transfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\nCANARY", Refused(400)),
    ("chunk size empty", "Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\nCANARY", Refused(400)),
    (
        "chunk size overflows",
        "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\nCANARY",
        Refused(400),
    ),
    (
        "chunk extension ends with LF (EXT.TERM)",
        "Transfer-Encoding: chunked\r\n\r\n5;\nhello\r\n0\r\n\r\nCANARY",
        Refused(400),
    ),
    ("chunk extension ends with CR", "Transfer-Encoding: chunked\r\n\r\n5;a\rhello\r\n0\r\n\r\nCANARY", Refused(400)),
    (
        "chunk extension with LF within",
        "Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n2f\r\n0\r\n\r\nCANARY",
        Refused(400),
    ),
    ("last chunk with LF", "Transfer-Encoding: chunked\r\n\r\n0\n\nCANARY", Refused(400)),
    ("trailer with LF", "Transfer-Encoding: chunked\r\n\r\n0\r\nX: x\n\r\nCANARY", Refused(400)),
    (
        "trailer that frames",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 100\r\n\r\n",
        Body("hello"),
    ),
    // Expectations that some read as 100-continue.
    ("Expect, obscured", "Expect: y 100-continue\r\nContent-Length: 5\r\n\r\nhello", Body("hello")),
    ("Expect, folded", "Expect:\r\n 100-continue\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    // Hop-by-hop fields that would take others away.
    ("Connection: Content-Length", "Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", Body("hello")),
    (
        "Connection: Transfer-Encoding",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Body("hello"),
    ),
    // Other protocols.
    (
        "h2c",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 5\r\n\r\nhello",
        Body("hello"),
    ),
    (
        "websocket",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nContent-Length: 5\r\n\r\nhello",
        Body("hello"),
    ),
    ("Host twice", "Host: localhost\r\n\r\nCANARY", Refused(400)),
];

fn upstream() -> FakeUpstream {
    FakeUpstream::start(|_, out| crate::support::upstream::text(out, "200 OK", "", "ok"))
}

/// The status, and whether the connection was closed behind the answer.
fn send(proxy: &Proxy, bytes: &str) -> (u16, bool) {
    let mut connection: Connection = proxy.connect();
    connection.write(bytes);
    let status = connection.reply(false).unwrap_or_else(|| panic!("no answer to {bytes:?}; {}", proxy.log())).status;
    let _ = connection.socket.shutdown(Shutdown::Write);
    (status, connection.is_closed())
}

#[test]
fn no_family_of_request_smuggling_gets_through() {
    let upstream = upstream();
    let proxy = Proxy::start(upstream.port, &[]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    for (name, rest, fate) in FAMILIES {
        let canary = CANARY.replace("TOKEN", &token);
        let rest = rest.replace("CANARY-IS-NEXT", "").replace("CANARY", &canary);
        let before = upstream.received().len();
        let text = format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n{rest}");
        let (status, closed) = send(&proxy, &text);
        let received: Vec<Received> = upstream.received().split_off(before);
        assert!(received.iter().all(|r| r.target == "/mcp"), "{name}: the canary sang: {received:?}");
        match fate {
            Refused(expected) => {
                assert_eq!((status, closed, received.len()), (*expected, true, 0), "{name}");
            }
            Body(expected) => {
                assert_eq!((status, received.len()), (200, 1), "{name}");
                assert_eq!(received[0].body, expected.as_bytes(), "{name}");
                let framing = |n: &str| received[0].headers.iter().filter(|(h, _)| h.eq_ignore_ascii_case(n)).count();
                assert_eq!(framing("content-length") + framing("transfer-encoding"), 1, "{name}: {received:?}");
                assert_eq!(framing("upgrade") + framing("connection"), 0, "{name}: {received:?}");
            }
        }
    }
}

#[test]
fn request_targets_have_four_forms_and_most_of_them_are_not_for_a_server() {
    let upstream = upstream();
    let proxy = Proxy::start(upstream.port, &[]);
    let token = format!("Bearer {}", Client::public(&proxy).tokens().access);
    let host = proxy.host();
    for (line, status, target) in [
        // Origin form.
        ("GET /mcp?a=b HTTP/1.1", 200, Some("/mcp?a=b")),
        ("GET //mcp HTTP/1.1", 200, Some("//mcp")),
        ("GET /mcp?x=/../ HTTP/1.1", 200, Some("/mcp?x=/../")),
        ("GET mcp HTTP/1.1", 400, None),
        ("GET ?x HTTP/1.1", 400, None),
        ("GET /mcp#x HTTP/1.1", 400, None),
        ("GET /m\\cp HTTP/1.1", 400, None),
        ("GET /m\tcp HTTP/1.1", 400, None),
        ("GET /m\u{e9}cp HTTP/1.1", 400, None),
        // Absolute form.
        (&format!("GET http://{host}/mcp HTTP/1.1"), 200, Some("/mcp")),
        (&format!("GET HTTP://{host}/mcp HTTP/1.1"), 200, Some("/mcp")),
        ("GET http://evil.example/mcp HTTP/1.1", 400, None),
        (&format!("GET http://u@{host}/mcp HTTP/1.1"), 400, None),
        (&format!("GET ftp://{host}/mcp HTTP/1.1"), 400, None),
        // Authority form.
        (&format!("CONNECT {host} HTTP/1.1"), 405, None),
        (&format!("GET {host} HTTP/1.1"), 400, None),
        // Asterisk form.
        ("OPTIONS * HTTP/1.1", 204, None),
        ("GET * HTTP/1.1", 400, None),
        ("PRI * HTTP/2.0", 505, None),
        // Request lines that are none.
        ("GET /mcp", 400, None),
        ("GET /mcp HTTP/1.10", 400, None),
        ("GET /mcp HTTP/1.1 HTTP/1.1", 400, None),
        ("GET /mcp http/1.1", 400, None),
        ("GET  /mcp HTTP/1.1", 400, None),
        (" GET /mcp HTTP/1.1", 400, None),
        ("GET\t/mcp HTTP/1.1", 400, None),
        ("G\u{e9}T /mcp HTTP/1.1", 400, None),
    ] {
        let before = upstream.received().len();
        let text = format!("{line}\r\nHost: {host}\r\nAuthorization: {token}\r\n\r\n");
        let found = send(&proxy, &text).0;
        // A version that is not known may be called that.
        assert!(found == status || (status == 400 && found == 505), "{line}: {found}");
        let received: Vec<String> = upstream.received().split_off(before).into_iter().map(|r| r.target).collect();
        assert_eq!(received, target.map(String::from).into_iter().collect::<Vec<_>>(), "{line}");
    }
}

#[test]
fn no_spelling_of_a_path_gets_round_the_guard_or_the_routes() {
    let upstream = upstream();
    let proxy = Proxy::start(upstream.port, &[]);
    let token = format!("Authorization: Bearer {}\r\n", Client::public(&proxy).tokens().access);
    let spellings = [
        "/.idp/../mcp",
        "/.idp/%2e%2e/mcp",
        "/.idp/..%2fmcp",
        "/.idp/..;/mcp",
        "/.idp\\..\\mcp",
        "/.well-known/../mcp",
        "/.well-known/%2e./mcp",
        "/.auth/login/../../mcp",
        "/.auth%2f..%2fmcp",
        "/%2eidp/token",
        "/.%69dp/token",
        "/.IDP/token",
        "//.idp/token",
        "/./.idp/token",
        "/.idp;x/token",
        "/.idp%00/token",
        "/mcp/../.idp/token",
        "/mcp%2f..",
        "/mcp/%2e%2e%5cadmin",
        "/mcp%0d%0aX:y",
        "/mcp%",
    ];
    for path in spellings {
        let get =
            |fields: &str| send(&proxy, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", proxy.host())).0;
        let before = upstream.received().len();
        let status = get("");
        assert!(matches!(status, 400 | 401 | 404 | 405), "{path} without a token: {status}");
        assert_eq!(upstream.received().len(), before, "{path} went upstream without a token");
        // With one, what goes upstream goes as it came, and has no second reading.
        get(&token);
        for received in upstream.received().split_off(before) {
            assert_eq!(received.target, path);
            assert!(!received.target.contains(".."), "{path}");
        }
    }
}
