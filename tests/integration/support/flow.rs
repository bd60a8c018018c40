//! The steps of an authorization, as a client and a browser take them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::proxy::PASSWORD;
use super::wire::{Reply, Transport};

pub(crate) const REDIRECT: &str = "http://127.0.0.1:5000/callback";
pub(crate) const VERIFIER: &str = "a-verifier-of-forty-three-characters-at-least-0";
pub(crate) const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

pub(crate) fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

pub(crate) fn encode(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The query of a URL.
pub(crate) fn query(url: &str) -> BTreeMap<String, String> {
    let query = url.split_once('?').map_or("", |(_, q)| q);
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// A browser: cookies, and the forms that it was shown.
pub(crate) struct Browser<'t, T> {
    pub transport: &'t T,
    pub cookies: RefCell<BTreeMap<String, String>>,
}

impl<'t, T: Transport> Browser<'t, T> {
    pub(crate) fn new(transport: &'t T) -> Self {
        Browser { transport, cookies: RefCell::default() }
    }

    fn send(&self, method: &str, target: &str, body: &str) -> Reply {
        let cookies: Vec<String> = self.cookies.borrow().iter().map(|(n, v)| format!("{n}={v}")).collect();
        let (cookies, origin) = (cookies.join("; "), self.transport.origin());
        let mut headers = vec![("Cookie", cookies.as_str())];
        if method == "POST" {
            headers.extend([FORM, ("Origin", &origin)]);
        }
        let reply = self.transport.send(method, target, &headers, body.as_bytes());
        for (_, value) in reply.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie")) {
            let (name, rest) = value.split_once('=').unwrap();
            if value.contains("Max-Age=0") {
                self.cookies.borrow_mut().remove(name);
            } else {
                self.cookies.borrow_mut().insert(name.into(), rest.split(';').next().unwrap().into());
            }
        }
        reply
    }

    pub(crate) fn get(&self, target: &str) -> Reply {
        self.send("GET", target, "")
    }

    /// As a browser opens a page.
    pub(crate) fn get_page(&self, target: &str) -> Reply {
        let cookies: Vec<String> = self.cookies.borrow().iter().map(|(n, v)| format!("{n}={v}")).collect();
        self.transport.send("GET", target, &[("Cookie", &cookies.join("; ")), ("Accept", "text/html,*/*")], b"")
    }

    pub(crate) fn post(&self, target: &str, fields: &[(&str, &str)]) -> Reply {
        self.send("POST", target, &encode(fields))
    }

    /// Opens the page of an authorization request and signs in with `password`.
    pub(crate) fn sign_in(&self, target: &str, password: &str) -> Reply {
        let page = self.get(target);
        assert_eq!(page.status, 200, "{}", page.text());
        self.post(
            "/.auth/login",
            &[("request", &hidden(&page, "request")), ("password", password), ("decision", "allow")],
        )
    }
}

/// The value of a hidden field.
pub(crate) fn hidden(page: &Reply, name: &str) -> String {
    let html = page.text();
    let start = html.find(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("no field {name} in {html}"));
    let value = &html[start..].split("value=\"").nth(1).unwrap();
    value.split('"').next().unwrap().to_string()
}

/// A client of the authorization server.
pub(crate) struct Client<'t, T> {
    pub transport: &'t T,
    pub id: String,
    pub secret: Option<String>,
    pub redirect: String,
}

/// What a token request brought.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub access: String,
    pub refresh: String,
    pub expires_in: u64,
}

impl<'t, T: Transport> Client<'t, T> {
    /// A public client with a loopback redirect URI.
    pub(crate) fn public(transport: &'t T) -> Self {
        Client::named(transport, "test client")
    }

    pub(crate) fn named(transport: &'t T, name: &str) -> Self {
        Client::register(
            transport,
            json!({"client_name": name, "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"}),
        )
    }

    pub(crate) fn register(transport: &'t T, metadata: Value) -> Self {
        let reply = register(transport, &metadata);
        assert_eq!(reply.status, 201, "{}", reply.text());
        let answer = reply.json();
        Client {
            transport,
            id: answer["client_id"].as_str().unwrap().into(),
            secret: answer["client_secret"].as_str().map(Into::into),
            redirect: metadata["redirect_uris"][0].as_str().unwrap().into(),
        }
    }

    /// The target of an authorization request.
    pub(crate) fn authorize(&self, more: &[(&str, &str)]) -> String {
        let challenge = challenge(VERIFIER);
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", &self.id),
            ("redirect_uri", &self.redirect),
            ("state", "s t&te"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in more {
            pairs.retain(|(n, _)| n != name);
            pairs.push((name, value));
        }
        format!("/.idp/auth?{}", encode(&pairs))
    }

    /// Through sign-in to an authorization code.
    pub(crate) fn code(&self) -> String {
        let reply = Browser::new(self.transport).sign_in(&self.authorize(&[]), PASSWORD);
        assert_eq!(reply.status, 303, "{}", reply.text());
        query(reply.header("location").unwrap()).remove("code").unwrap()
    }

    pub(crate) fn token_request(&self, pairs: &[(&str, &str)]) -> Reply {
        let mut all = vec![("client_id", self.id.as_str())];
        all.extend(self.secret.as_deref().map(|s| ("client_secret", s)));
        all.extend(pairs);
        self.transport.send("POST", "/.idp/token", &[FORM], encode(&all).as_bytes())
    }

    pub(crate) fn redeem(&self, code: &str) -> Reply {
        self.token_request(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.redirect),
            ("code_verifier", VERIFIER),
        ])
    }

    pub(crate) fn refresh(&self, token: &str) -> Reply {
        self.token_request(&[("grant_type", "refresh_token"), ("refresh_token", token)])
    }

    /// The whole way.
    pub(crate) fn tokens(&self) -> Tokens {
        tokens(&self.redeem(&self.code()))
    }
}

pub(crate) fn register(transport: &impl Transport, metadata: &Value) -> Reply {
    transport.send("POST", "/.idp/register", &[("Content-Type", "application/json")], metadata.to_string().as_bytes())
}

pub(crate) fn tokens(reply: &Reply) -> Tokens {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    Tokens {
        access: answer["access_token"].as_str().unwrap().into(),
        refresh: answer["refresh_token"].as_str().unwrap().into(),
        expires_in: answer["expires_in"].as_u64().unwrap(),
    }
}

/// A request to the resource with a token.
pub(crate) fn call(transport: &impl Transport, token: &str) -> Reply {
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    transport.send("POST", "/mcp", &headers, br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)
}
