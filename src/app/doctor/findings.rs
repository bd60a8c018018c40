//! Everything that `doctor` can find: what it means for clients, and what to change. docs/doctor.md is made from this table.

use super::clients::{KnownClient, Place};

/// How bad a finding is where no client fails because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// It is not safe.
    Failure,
    /// It is worse than it should be.
    Warning,
    /// It is good to know.
    Note,
}

impl Severity {
    pub(super) fn word(self) -> &'static str {
        match self {
            Severity::Failure => "failure",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One kind of thing that can be wrong.
pub(super) struct Finding {
    /// A name for programs; it does not change.
    pub(super) code: &'static str,
    pub(super) severity: Severity,
    pub(super) means: &'static str,
    pub(super) change: &'static str,
    /// The clients that don't get past it. Where the answer to one client tells, the report names that client instead.
    pub(super) fails: fn(&KnownClient) -> bool,
}

impl Finding {
    /// Does the answer to one client tell, and so is it found for that client alone?
    #[cfg(test)]
    fn is_told_by_client(&self) -> bool {
        let told = [
            &AGENT_BLOCKED,
            &REGISTRATION_CLOSED,
            &REGISTRATION_REFUSED,
            &REGISTRATION_INCOMPLETE,
            &AUTHORIZATION_REFUSED,
            &DOCUMENT_REFUSED,
            &DOCUMENT_NOT_FETCHED,
        ];
        told.into_iter().any(|finding| std::ptr::eq(finding, self))
    }
}

fn all(_: &KnownClient) -> bool {
    true
}

fn nobody(_: &KnownClient) -> bool {
    false
}

/// They connect from their vendor's machines, so they need what the internet needs.
fn cloud(client: &KnownClient) -> bool {
    client.place == Place::Cloud
}

/// They run where their user is, with the trust and the names of that machine.
fn browser(client: &KnownClient) -> bool {
    client.place == Place::Browser
}

macro_rules! findings {
    ($($name:ident: $code:literal, $severity:ident, $fails:expr, $means:literal, $change:literal;)*) => {
        $(pub(super) static $name: Finding =
            Finding { code: $code, severity: Severity::$severity, means: $means, change: $change, fails: $fails };)*
        /// All of them, in the order in which they are looked for.
        #[cfg(test)]
        pub(super) static FINDINGS: &[&Finding] = &[$(&$name),*];
    };
}

/// docs/doctor.md from its first heading of a table on.
#[cfg(test)]
fn markdown() -> String {
    use super::clients::CLIENTS;

    let mut out = String::from("| finding | means | what to do | clients that fail |\n|---|---|---|---|\n");
    for finding in FINDINGS {
        let fails: Vec<&str> = CLIENTS.iter().filter(|c| (finding.fails)(c)).map(|c| c.name).collect();
        let fails = match fails.len() {
            0 if finding.is_told_by_client() => "the one that meets it".into(),
            0 => format!("none: a {}", finding.severity.word()),
            n if n == CLIENTS.len() => "all".to_string(),
            _ => fails.join(", "),
        };
        let cell = |text: &str| text.replace('|', "\\|");
        out += &format!("| `{}` | {} | {} | {fails} |\n", finding.code, cell(finding.means), cell(finding.change));
    }
    out += "\n## Clients\n\n| `--client` | | runs | redirect URIs | metadata document |\n|---|---|---|---|---|\n";
    for client in CLIENTS {
        let runs = match client.place {
            Place::Cloud => "at its vendor",
            Place::Machine => "at its user",
            Place::Browser => "in a browser",
        };
        let uris: Vec<String> = client.registers.iter().map(|uri| format!("`{uri}`")).collect();
        let document = match client.document {
            Some(document) => format!("`{document}`"),
            None if client.brings_document => "yes".into(),
            None => String::new(),
        };
        out += &format!("| `{}` | {} | {runs} | {} | {document} |\n", client.name, client.title, uris.join(", "));
    }
    out
}

findings! {
    UNKNOWN_NAME: "unknown-name", Failure, all,
        "The name leads nowhere.",
        "Add an A record for it (and AAAA if the machine has IPv6), or correct the URL.";
    THIS_MACHINE: "this-machine", Note, nobody,
        "Clients that run at their vendor can't reach a URL of this machine, so they are left out.",
        "To look for them too, name them with --client.";
    NOT_PUBLIC: "not-public", Note, cloud,
        "Clients that run at their vendor can't reach an address of a private network or of this machine.",
        "Use a public name and address, or a tunnel; clients on the same network work without.";
    IPV6_ONLY: "ipv6-only", Warning, cloud,
        "Clients that run at their vendor connect over IPv4.",
        "Add an A record with an IPv4 address.";
    NOT_HTTPS: "not-https", Failure, cloud,
        "Tokens pass in the clear, and clients of vendors refuse the URL.",
        "Serve https: with mcp-auth-proxy, --external-url https://… and --tls-accept-tos, or a reverse proxy that has the certificate.";
    NO_CONNECTION: "no-connection", Failure, all,
        "Nothing answers there.",
        "Start the server, open the port in firewall and router, and publish it where it runs in a container.";
    SOME_ADDRESSES_FAIL: "some-addresses-fail", Warning, nobody,
        "Clients that try this address first wait for seconds, or give up.",
        "Serve on every address that the name has, or take the record away (often AAAA).";
    PRIVATE_ADDRESS: "private-address", Failure, all,
        "A document of a public server names a private address, which clients can't reach, and doctor does not ask.",
        "Set the public URL of the authorization server; with mcp-auth-proxy that is --external-url (EXTERNAL_URL).";
    TLS_FAILED: "tls-failed", Failure, all,
        "There is no TLS connection.",
        "Serve TLS 1.2 or 1.3 on this port. If plain HTTP is spoken there, the certificate belongs to another port or is missing.";
    OTHER_PORT: "other-port", Note, nobody,
        "Claude was seen to refuse ports other than 443.",
        "Use port 443 for clients that run at their vendor.";
    CERTIFICATE_EXPIRED: "certificate-expired", Failure, all,
        "Every client refuses the certificate.",
        "Renew it, and have the server read it again; mcp-auth-proxy renews by itself if ports 80 or 443 reach it.";
    CERTIFICATE_NOT_YET: "certificate-not-yet-valid", Failure, all,
        "Every client refuses the certificate.",
        "Set the clocks of both machines right, or get a new certificate.";
    CERTIFICATE_NAME: "certificate-wrong-name", Failure, all,
        "Every client refuses the certificate, because it is for another name.",
        "Get one for this name, and see that the reverse proxy in front chooses it (SNI).";
    CERTIFICATE_CHAIN: "certificate-chain-incomplete", Failure, all,
        "Browsers fetch the missing certificate themselves; MCP clients don't, and refuse.",
        "Serve the whole chain: the file is often called fullchain.pem.";
    CERTIFICATE_NOT_TRUSTED: "certificate-not-trusted", Failure, all,
        "Clients trust public authorities only.",
        "Get a certificate from a public authority such as Let's Encrypt, or give clients the private one (NODE_EXTRA_CA_CERTS, SSL_CERT_FILE) and doctor --ca-file (CA_FILE).";
    CERTIFICATE_OWN_AUTHORITY: "certificate-private-authority", Note, cloud,
        "Clients trust it only where you have installed that authority; those of vendors never do.",
        "Get a certificate from a public authority for clients that run at their vendor.";
    CERTIFICATE_EXPIRES_SOON: "certificate-expires-soon", Warning, nobody,
        "The renewal does not seem to work.",
        "Look into the log of what renews it: port 80 or 443 must reach it from outside.";
    CLOCK_SKEW: "clock-skew", Warning, nobody,
        "Tokens and certificates may be taken for expired, or for not valid yet.",
        "Set both clocks by NTP.";
    NO_ANSWER: "no-answer", Failure, all,
        "The connection opens, but no answer comes.",
        "Look into the log of the server, and of each proxy in front of it.";
    REDIRECTED: "redirected", Failure, all,
        "After such a redirect clients send GET in place of POST, or don't follow.",
        "Give clients the URL that it leads to, with or without the slash at its end, and redirect with 308 if you must.";
    REDIRECTED_KEEPING_METHOD: "redirected-keeping-method", Warning, nobody,
        "Not every client follows, and none sends its token to another host.",
        "Give clients the URL that it leads to.";
    SIGN_IN_IN_FRONT: "sign-in-in-front", Failure, all,
        "Another program in front answers with a page for browsers; MCP clients can't sign in there.",
        "Let the MCP path, /.well-known/, /.idp/ and /.auth/ pass without its sign-in.";
    BLOCKED: "blocked", Failure, all,
        "Something in front takes the client for a robot and blocks it.",
        "Let the MCP path, /.well-known/ and /.idp/ pass the protection against robots.";
    SERVER_DOWN: "server-down", Failure, all,
        "The one in front answers, but not the server behind it.",
        "Start the server behind, and see that the one in front has its address.";
    HOST_REFUSED: "host-refused", Failure, all,
        "The server does not know itself by this name.",
        "Have the proxy in front pass on Host; with mcp-auth-proxy, name the host in --external-url (EXTERNAL_URL) or --allowed-hosts (ALLOWED_HOSTS).";
    NOT_FOUND: "not-found", Failure, all,
        "There is no MCP server at this path.",
        "Correct the path: it is usually /mcp, or /NAME/mcp where there are several servers.";
    OPEN: "open", Warning, nobody,
        "The server answers without a token: whoever knows the URL uses it.",
        "If that is not meant, put mcp-auth-proxy in front, and let nothing else reach the server.";
    NOT_MCP: "not-mcp", Failure, all,
        "Something answers without asking for a token, but not as an MCP server does.",
        "Correct the path, or see what else answers there; initialize must be answered with its result, or with 401.";
    NO_CHALLENGE: "no-challenge", Failure, all,
        "Clients begin to sign in only after 401.",
        "Answer requests without a token with 401 and WWW-Authenticate; a proxy in front must not change them.";
    CHALLENGE_WITHOUT_FIELD: "challenge-without-field", Warning, |client| client.habits.needs_challenge,
        "The 401 has no WWW-Authenticate, so clients have to guess where the metadata is.",
        "Send WWW-Authenticate: Bearer resource_metadata=\"…\" (RFC 9728), and have proxies in front pass it on.";
    CHALLENGE_NOT_BEARER: "challenge-not-bearer", Failure, all,
        "The 401 asks for another kind of sign-in, such as a password of the proxy in front.",
        "Take that sign-in away from the MCP path; it is sent in the same field as the client's token.";
    CHALLENGE_WITHOUT_METADATA: "challenge-without-metadata", Warning, nobody,
        "Clients have to guess where the resource metadata is.",
        "Add resource_metadata=\"…\" to WWW-Authenticate (RFC 9728 section 5.1).";
    CHALLENGE_WITH_ERROR: "challenge-with-error", Warning, nobody,
        "Some clients take the challenge for a refused token, and don't begin to sign in.",
        "Send error=\"…\" only when the request has a token (RFC 6750 section 3.1).";
    CHALLENGE_FORM: "challenge-form", Warning, |client| client.habits.needs_quotes,
        "Some clients read the challenge only in its usual form, and then don't find the metadata.",
        "Send one field that begins with Bearer, and an absolute URL in quotation marks: Bearer resource_metadata=\"https://…\".";
    OFFLINE_ACCESS_IN_CHALLENGE: "offline-access-in-challenge", Note, nobody,
        "offline_access says nothing about this resource (MCP 2026-07-28).",
        "Name it in scopes_supported of the authorization server only.";
    HEAD_WITHOUT_CHALLENGE: "head-without-challenge", Warning, |client| client.habits.asks_by_head,
        "This client asks by HEAD, and finds no sign-in.",
        "Answer HEAD as POST: with 401 and the challenge.";
    GET_WITHOUT_CHALLENGE: "get-without-challenge", Warning, |client| client.habits.needs_challenge_to_get,
        "This client also asks by GET, and gives up after 404 or 405.",
        "Answer GET without a token as POST: with 401 and the challenge.";
    GET_ANSWERED: "get-answered", Warning, |client| client.habits.reads_get_as_metadata,
        "This client takes what GET answers for the resource metadata.",
        "Answer GET without a token with 401, and put no page at the MCP path.";
    AGENT_BLOCKED: "agent-blocked", Failure, nobody,
        "Something in front blocks this client by its User-Agent.",
        "Let it pass (at Cloudflare: AI Crawl Control, Block AI bots, Browser Integrity Check) for the MCP path, /.well-known/ and /.idp/.";
    ANY_TOKEN_ACCEPTED: "any-token-accepted", Failure, nobody,
        "A made-up token is accepted: whoever knows the URL uses the server.",
        "Have the server verify tokens, or put mcp-auth-proxy in front.";
    TOKEN_NOT_NOTICED: "token-not-noticed", Warning, nobody,
        "The answer to a bad token is that to none: perhaps a proxy in front takes Authorization away, and then no token arrives.",
        "Have the proxy in front pass Authorization on, and answer bad tokens with error=\"invalid_token\".";
    NO_RESOURCE_METADATA: "no-resource-metadata", Failure, |client| client.habits.needs_challenge,
        "Clients don't find out who gives tokens.",
        "Serve the document of RFC 9728 at /.well-known/oauth-protected-resource with the path behind it, without a token.";
    ROOT_METADATA_MISSING: "root-metadata-missing", Note, nobody,
        "ChatGPT was seen to ask at the root as well.",
        "With one server, serve the document at /.well-known/oauth-protected-resource as well; with several, only each server's own can be right.";
    WELL_KNOWN_PAGE: "well-known-page", Warning, |client| client.habits.stops_at_pages,
        "Where there is no document, clients expect 404; at a page or an error of the server some give up.",
        "Answer unknown paths below /.well-known/ with 404.";
    NOT_JSON: "metadata-not-json", Failure, all,
        "Where the document should be there is something else, often the page of a web application or of a sign-in.",
        "Let /.well-known/ reach the MCP server, without a sign-in.";
    METADATA_ELSEWHERE: "metadata-elsewhere", Failure, all,
        "The challenge names a URL of another scheme or host: the server does not know its public URL, or this is not it.",
        "Set it (mcp-auth-proxy: --external-url, EXTERNAL_URL), or give clients the URL of that host. Where a proxy in front changes Host or the scheme, have it pass them on.";
    RESOURCE_DIFFERS: "resource-differs", Failure, all,
        "Clients refuse metadata of another resource than the URL that they were given (RFC 9728 section 3.3).",
        "Set the public URL of the server, or give clients the URL that stands in the document.";
    RESOURCE_SPELLED_OTHERWISE: "resource-spelled-otherwise", Warning, |client| client.habits.compares_resource_exactly,
        "Some clients compare the resource with their URL letter by letter.",
        "Name the resource as clients are given it, with or without the slash at its end.";
    NO_AUTHORIZATION_SERVER: "no-authorization-server", Failure, all,
        "The document does not say who gives tokens.",
        "Add authorization_servers (RFC 9728 section 2).";
    NO_SERVER_METADATA: "no-server-metadata", Failure, all,
        "Clients don't find the endpoints of the authorization server.",
        "Serve the document of RFC 8414 at /.well-known/oauth-authorization-server of the issuer, without a token.";
    ISSUER_DIFFERS: "issuer-differs", Warning, |client| client.habits.compares_issuer,
        "Clients refuse metadata of another issuer than the one they asked (RFC 8414 section 3.3).",
        "Write authorization_servers, issuer and iss alike, letter by letter, without a slash at the end.";
    ENDPOINT_MISSING: "endpoint-missing", Failure, all,
        "Clients can't go on without this endpoint.",
        "Add it to the metadata of the authorization server.";
    ENDPOINT_NOT_HTTPS: "endpoint-not-https", Failure, all,
        "The metadata of an https server names an http URL.",
        "Set the public URL of the authorization server, or have the proxy in front pass on X-Forwarded-Proto.";
    NO_PKCE: "no-pkce", Failure, |client| client.habits.needs_pkce_in_metadata,
        "Clients refuse a server that does not announce S256 (MCP authorization).",
        "Add \"code_challenge_methods_supported\": [\"S256\"], and verify it.";
    NO_CODE_FLOW: "no-code-flow", Failure, all,
        "Clients use the authorization code grant, and the metadata leave it out.",
        "Add \"code\" to response_types_supported, and authorization_code to grant_types_supported if that is there.";
    NO_REFRESH: "no-refresh", Warning, nobody,
        "People sign in again each time an access token ends.",
        "Offer refresh_token in grant_types_supported.";
    NO_REGISTRATION: "no-registration", Failure, all,
        "Clients can't introduce themselves: there is neither registration (RFC 7591) nor support for client ID metadata documents.",
        "Offer one of them (mcp-auth-proxy: take --registration off, REGISTRATION, or --no-cimd, NO_CIMD, away), or make a client id (clients add) for people to type, where their client lets them.";
    DOCUMENTS_ONLY: "documents-only", Warning, |client| !client.brings_document,
        "Clients without a metadata document of their own can't introduce themselves.",
        "Offer registration (RFC 7591) as well (mcp-auth-proxy: --registration open, REGISTRATION).";
    DOCUMENTS_WITHOUT_PUBLIC_CLIENTS: "documents-without-public-clients", Warning, nobody,
        "Clients with a metadata document have no secret, and some use it only where \"none\" is offered.",
        "Add \"none\" to token_endpoint_auth_methods_supported.";
    REGISTRATION_CLOSED: "registration-closed", Failure, nobody,
        "Registration asks for a token or is refused for everybody, although the metadata offer it.",
        "Open it, or take registration_endpoint out of the metadata (mcp-auth-proxy: --registration, REGISTRATION).";
    REGISTRATION_REFUSED: "registration-refused", Failure, nobody,
        "The registration that this client sends is refused.",
        "Accept it: several redirect URIs at once, loopback URIs and those of apps, and fields that are not known (mcp-auth-proxy: --registration-redirect-uris).";
    REGISTRATION_LIMITED: "registration-limited", Warning, nobody,
        "There were too many registrations for now, so the rest was not looked at.",
        "Try again later, or with --client for one client.";
    REGISTRATION_INCOMPLETE: "registration-incomplete", Failure, nobody,
        "The answer to a registration lacks what clients read from it.",
        "Answer 201 with client_id, redirect_uris, grant_types and token_endpoint_auth_method (RFC 7591 section 3.2.1).";
    REGISTRATION_WITHOUT_REFRESH: "registration-without-refresh", Warning, |client| client.habits.needs_refresh_in_registration,
        "A client that registers for refresh tokens is told that it gets none.",
        "Echo refresh_token in grant_types.";
    AUTHORIZATION_REFUSED: "authorization-refused", Failure, nobody,
        "Instead of a sign-in, people see an error.",
        "Accept the redirect URI that was registered, S256, and the resource parameter (RFC 8707), whatever they are.";
    LOOPBACK_PORT: "loopback-port", Warning, nobody,
        "Where the usual port of a client is taken on its user's machine, it listens on another, and is refused.",
        "Let the port of loopback redirect URIs differ (RFC 8252 section 7.3).";
    DOCUMENT_REFUSED: "document-refused", Failure, nobody,
        "The server offers metadata documents, but refuses that of this client.",
        "Accept it, or stop offering documents: then clients register (mcp-auth-proxy: --cimd-allowed-domains, --no-cimd).";
    DOCUMENT_NOT_FETCHED: "document-not-fetched", Failure, nobody,
        "The server could not fetch this client's metadata document, so the client can't introduce itself.",
        "Let the server reach https on the internet (its firewall, DNS, HTTPS_PROXY), or stop offering documents: then clients register (mcp-auth-proxy: --no-cimd).";
    DOCUMENTS_NOT_SEEN: "documents-not-seen", Note, nobody,
        "This machine does not reach the internet, so whether its server can fetch metadata documents can't be seen.",
        "Look again where the server will be.";
    REDIRECT_NOT_CHECKED: "redirect-not-checked", Failure, nobody,
        "A redirect URI that was not registered is accepted: codes can be sent to an attacker.",
        "Compare redirect URIs exactly (RFC 9700 section 2.1).";
    PKCE_NOT_REQUIRED: "pkce-not-required", Warning, nobody,
        "An authorization without PKCE is accepted, so a stolen code can be used.",
        "Refuse requests without code_challenge (OAuth 2.1 section 4.1.1).";
    TOKEN_ENDPOINT_FAILS: "token-endpoint-fails", Failure, all,
        "Clients can't exchange the code for a token.",
        "Let POST reach it without a sign-in in front, and answer a bad code with 400 and a JSON object (RFC 6749 section 5.2).";
    TOKEN_ERROR_UNKNOWN: "token-error-unknown", Warning, nobody,
        "Clients mend invalid_client and invalid_grant by themselves; other codes leave them stuck.",
        "Answer a bad code with invalid_grant (RFC 6749 section 5.2).";
    CORS_MCP: "cors-mcp", Warning, browser,
        "A script in a browser may not use the MCP server.",
        "Answer OPTIONS on the MCP path without a token, allow the origin, and Authorization, Content-Type, MCP-Protocol-Version and Mcp-Session-Id.";
    CORS_CHALLENGE: "cors-challenge", Warning, browser,
        "A script in a browser can't read the challenge or the session id.",
        "Send Access-Control-Allow-Origin with 401 too, and Access-Control-Expose-Headers: WWW-Authenticate, Mcp-Session-Id.";
    CORS_OAUTH: "cors-oauth", Warning, browser,
        "A script in a browser may not read the metadata, register, or get a token.",
        "Send Access-Control-Allow-Origin: * with metadata, registration and token endpoint.";
    EVENTS_BUFFERED: "events-buffered", Warning, nobody,
        "A proxy in front holds events back, so progress and notifications come late or never.",
        "Switch buffering off there (nginx: proxy_buffering off; proxy_read_timeout 1h).";
    EVENTS_COMPRESSED: "events-compressed", Warning, nobody,
        "A proxy in front compresses events, which holds them back until there are enough of them.",
        "Leave text/event-stream out of what it compresses.";
    AUTHORIZATION_TAKEN: "authorization-taken", Failure, all,
        "A proxy in front takes the Authorization field away, so no token arrives.",
        "Have it pass Authorization on.";
    SESSION_FAILS: "session-fails", Failure, all,
        "With your token, the MCP server does not answer as a client needs it.",
        "See what it answered; the log of the MCP server says more.";
    SLOW: "slow", Warning, nobody,
        "Clients give up after some seconds.",
        "Look at the machine, and at what sleeps when nobody asks (serverless hosts, tunnels).";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TABLE: &str = "\n| finding |";

    #[test]
    fn the_table_of_findings_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctor.md");
        let found = std::fs::read_to_string(path).unwrap();
        let (before, _) = found.split_once(TABLE).expect("docs/doctor.md has the table");
        let wanted = format!("{before}\n{}", markdown());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(found == wanted, "docs/doctor.md is stale: UPDATE_DOCS=1 cargo test the_table_of_findings");
    }

    #[test]
    fn each_finding_is_looked_for_by_a_test() {
        let tests = ["tests/integration/app/doctor.rs", "tests/e2e/public.mjs"];
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let texts = tests.map(|test| std::fs::read_to_string(root.join(test)).unwrap()).concat();
        let quoted = |code: &str| ['"', '\''].iter().any(|mark| texts.contains(&format!("{mark}{code}{mark}")));
        let missing: Vec<_> = FINDINGS.iter().map(|f| f.code).filter(|code| !quoted(code)).collect();
        assert!(missing.is_empty(), "no test looks for {missing:?}");
    }

    #[test]
    fn codes_differ() {
        let codes: HashSet<_> = FINDINGS.iter().map(|finding| finding.code).collect();
        assert_eq!(codes.len(), FINDINGS.len());
    }
}
