//! Stand-ins for identity providers that say whatever a test tells them to.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::flow::{challenge, query};
use super::upstream::{FakeUpstream, Received, text};

pub(crate) const CLIENT_ID: &str = "proxy";
pub(crate) const CLIENT_SECRET: &str = "s3cret & more";

/// Makes the ID token's text of its claims, in another way than the provider would.
pub(crate) type Forge = Box<dyn Fn(&OidcState, Value) -> String + Send>;

/// An OpenID Connect provider.
pub(crate) struct FakeOidc {
    pub server: FakeUpstream,
    state: Arc<Mutex<OidcState>>,
}

/// What it knows and does.
pub(crate) struct OidcState {
    pub issuer: String,
    key: EcdsaKeyPair,
    kid: u32,
    /// Claims of whoever signs in next.
    pub claims: Value,
    /// Changes what the discovery document says.
    pub discovery: Value,
    /// What the userinfo endpoint says in place of the claims.
    pub userinfo: Option<Value>,
    pub forge: Option<Forge>,
    /// Gives refresh tokens, each good once.
    pub refreshes: bool,
    /// Answers every request with this.
    pub failure: Option<(&'static str, String)>,
    pub refused: Option<&'static str>,
    codes: HashMap<String, HashMap<String, String>>,
    refresh_tokens: Vec<String>,
    made: u32,
}

impl OidcState {
    /// A token signed by the provider's key.
    pub(crate) fn sign(&self, header: Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.kid.to_string()})
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.key.public_key().as_ref().to_vec()
    }

    fn id_token(&self, nonce: Option<&String>, now: u64) -> String {
        let mut claims = json!({"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300});
        claims.as_object_mut().unwrap().extend(self.claims.as_object().unwrap().clone());
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        match &self.forge {
            Some(forge) => forge(self, claims),
            None => self.sign(self.header(), &claims),
        }
    }
}

fn new_key() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap()
}

impl FakeOidc {
    /// With alice about to sign in; `now` is what its clock says.
    pub(crate) fn start(now: impl Fn() -> u64 + Send + Sync + 'static) -> FakeOidc {
        let state = Arc::new(Mutex::new(OidcState {
            issuer: String::new(),
            key: new_key(),
            kid: 1,
            claims: json!({"sub": "u-alice", "email": "alice@example.com", "email_verified": true, "name": "Alice",
                "groups": ["engineering", "admins"]}),
            discovery: json!({}),
            userinfo: None,
            forge: None,
            refreshes: false,
            failure: None,
            refused: None,
            codes: HashMap::new(),
            refresh_tokens: Vec::new(),
            made: 0,
        }));
        let own = state.clone();
        let server = FakeUpstream::start(move |request, out| answer(&mut own.lock().unwrap(), request, out, now()));
        state.lock().unwrap().issuer = format!("http://127.0.0.1:{}", server.port);
        FakeOidc { server, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, OidcState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn issuer(&self) -> String {
        self.state().issuer.clone()
    }

    pub(crate) fn configuration_url(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.issuer())
    }

    /// Replaces the key that signs.
    pub(crate) fn rotate(&self) {
        let mut state = self.state();
        state.key = new_key();
        state.kid += 1;
    }

    /// The person signs in at `url`: the query with which the browser comes back.
    pub(crate) fn authorize(&self, url: &str) -> Vec<(String, String)> {
        let asked = query(url);
        assert_eq!((asked["response_type"].as_str(), asked["client_id"].as_str()), ("code", CLIENT_ID));
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(url.starts_with(&self.issuer()), "{url}");
        let mut state = self.state();
        state.made += 1;
        let code = format!("code-{}", state.made);
        let sent = asked["state"].clone();
        state.codes.insert(code.clone(), asked.into_iter().collect());
        vec![("code".into(), code), ("state".into(), sent)]
    }
}

fn answer(state: &mut OidcState, request: &Received, out: &mut TcpStream, now: u64) {
    const JSON: &str = "Content-Type: application/json\r\n";
    if let Some((status, body)) = &state.failure {
        return text(out, status, JSON, body);
    }
    let ok = |out: &mut TcpStream, value: &Value| text(out, "200 OK", JSON, &value.to_string());
    match request.target.as_str() {
        // Also below a path, as providers of many tenants have it.
        target if target.ends_with("/.well-known/openid-configuration") => {
            let issuer = &state.issuer;
            let mut document = json!({"issuer": issuer, "authorization_endpoint": format!("{issuer}/auth?x=1"),
                "token_endpoint": format!("{issuer}/token"), "userinfo_endpoint": format!("{issuer}/me"),
                "jwks_uri": format!("{issuer}/jwks")});
            document.as_object_mut().unwrap().extend(state.discovery.as_object().unwrap().clone());
            document.as_object_mut().unwrap().retain(|_, v| !v.is_null());
            ok(out, &document);
        }
        "/jwks" => {
            let point = state.public_key();
            let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let key = json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": state.kid.to_string(),
                "x": coordinate(&point[1..33]), "y": coordinate(&point[33..])});
            ok(out, &json!({"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "EC", "use": "enc"}, key]}));
        }
        "/token" => {
            let body = String::from_utf8(request.body.clone()).unwrap();
            let form = query(&format!("?{body}"));
            let refuse = |out: &mut TcpStream, error: &str| {
                text(
                    out,
                    "400 Bad Request",
                    JSON,
                    &json!({"error": error, "error_description": "<b>no</b>"}).to_string(),
                );
            };
            let encode = |t: &str| form_urlencoded::byte_serialize(t.as_bytes()).collect::<String>();
            let basic = base64::engine::general_purpose::STANDARD.encode(format!(
                "{}:{}",
                encode(CLIENT_ID),
                encode(CLIENT_SECRET)
            ));
            // This client's secret goes into the field, whatever the discovery document says of others.
            if request.header("authorization") != Some(format!("Basic {basic}").as_str()) {
                return refuse(out, "invalid_client");
            }
            if let Some(error) = state.refused {
                return refuse(out, error);
            }
            let nonce = match form["grant_type"].as_str() {
                "authorization_code" => {
                    let Some(asked) = state.codes.remove(&form["code"]) else { return refuse(out, "invalid_grant") };
                    if asked["redirect_uri"] != form["redirect_uri"]
                        || asked["code_challenge"] != challenge(&form["code_verifier"])
                    {
                        return refuse(out, "invalid_grant");
                    }
                    asked.get("nonce").cloned()
                }
                _ => {
                    let known = state.refresh_tokens.iter().position(|t| *t == form["refresh_token"]);
                    let Some(i) = known else { return refuse(out, "invalid_grant") };
                    state.refresh_tokens.remove(i);
                    None
                }
            };
            let mut answer =
                json!({"access_token": "at", "token_type": "Bearer", "id_token": state.id_token(nonce.as_ref(), now)});
            if state.refreshes {
                state.made += 1;
                let token = format!("rt-{}", state.made);
                answer["refresh_token"] = json!(token);
                state.refresh_tokens.push(token);
            }
            ok(out, &answer);
        }
        "/me" => {
            assert_eq!(request.header("authorization"), Some("Bearer at"));
            ok(out, state.userinfo.as_ref().unwrap_or(&state.claims));
        }
        other => panic!("nobody asks for {other}"),
    }
}

/// GitHub, whose users `alice` are.
pub(crate) struct FakeGitHub {
    pub server: FakeUpstream,
    state: Arc<Mutex<GitHubState>>,
}

/// What it knows of the one who signs in.
#[derive(Default)]
pub(crate) struct GitHubState {
    pub login: String,
    pub id: u64,
    /// Pages of addresses.
    pub emails: Vec<Value>,
    /// `org` or `org/team`, and the state of the membership.
    pub memberships: HashMap<String, &'static str>,
    /// Tokens expire and come with a refresh token.
    pub expires: bool,
    /// Path to status that it answers with.
    pub failures: HashMap<String, &'static str>,
    pub token_error: Option<&'static str>,
    /// A 403 for memberships, with nothing but these words.
    pub words: Option<String>,
    pub is_revoked: bool,
    codes: HashMap<String, HashMap<String, String>>,
    made: u32,
}

impl FakeGitHub {
    pub(crate) fn start() -> FakeGitHub {
        let state = Arc::new(Mutex::new(GitHubState {
            login: "Alice".into(),
            id: 1001,
            emails: vec![json!([{"email": "alice@example.com", "primary": true, "verified": true}])],
            ..GitHubState::default()
        }));
        let own = state.clone();
        let server = FakeUpstream::start(move |request, out| github_answer(&mut own.lock().unwrap(), request, out));
        FakeGitHub { server, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, GitHubState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    pub(crate) fn authorize(&self, url: &str) -> Vec<(String, String)> {
        let asked = query(url);
        assert!(url.starts_with(&format!("{}/login/oauth/authorize?", self.url())), "{url}");
        let mut state = self.state();
        state.made += 1;
        let code = format!("code-{}", state.made);
        let sent = asked["state"].clone();
        state.codes.insert(code.clone(), asked.into_iter().collect());
        vec![("code".into(), code), ("state".into(), sent), ("iss".into(), format!("{}/login/oauth", self.url()))]
    }
}

fn github_answer(state: &mut GitHubState, request: &Received, out: &mut TcpStream) {
    let ok = |out: &mut TcpStream, fields: &str, value: &Value| text(out, "200 OK", fields, &value.to_string());
    if request.target == "/login/oauth/access_token" {
        let body = String::from_utf8(request.body.clone()).unwrap();
        let form = query(&format!("?{body}"));
        assert_eq!(request.header("accept"), Some("application/json"));
        assert_eq!((form["client_id"].as_str(), form["client_secret"].as_str()), (CLIENT_ID, CLIENT_SECRET));
        let is_good = match form.get("code") {
            Some(code) => state
                .codes
                .remove(code)
                .is_some_and(|asked| asked["code_challenge"] == challenge(&form["code_verifier"])),
            None => form["refresh_token"] == format!("gr-{}", state.made),
        };
        let error = state.token_error.or((!is_good).then_some("bad_verification_code"));
        if let Some(error) = error {
            // With status 200, as GitHub does.
            return ok(out, "", &json!({"error": error, "error_description": "<i>no</i>"}));
        }
        state.made += 1;
        let mut answer = json!({"access_token": format!("gt-{}", state.made), "token_type": "bearer", "scope": ""});
        if state.expires {
            answer["refresh_token"] = json!(format!("gr-{}", state.made));
            answer["expires_in"] = json!(28_800);
        }
        return ok(out, "", &answer);
    }
    assert!(request.header("user-agent").is_some_and(|v| v.starts_with("mcp-auth-proxy/")));
    let path = request.target.strip_prefix("/api/v3").expect("an API path").to_string();
    let bearer = request.header("authorization").unwrap_or_default();
    if state.is_revoked || (state.expires && bearer != format!("Bearer gt-{}", state.made)) {
        return text(out, "401 Unauthorized", "", "{}");
    }
    if let Some(status) = state.failures.get(&path) {
        return text(out, status, "X-RateLimit-Remaining: 0\r\n", "{}");
    }
    if let Some(words) = state.words.as_ref().filter(|_| path.contains("memberships")) {
        return text(out, "403 Forbidden", "", &json!({ "message": words }).to_string());
    }
    if path == "/user" {
        return ok(out, "", &json!({"id": state.id, "login": state.login, "name": "Alice A.", "email": null}));
    }
    if let Some(rest) = path.strip_prefix("/user/emails?per_page=100") {
        let page: usize = rest.strip_prefix("&page=").map_or(0, |p| p.parse().unwrap());
        let own = format!("http://{}", request.header("host").unwrap());
        let next = match page + 1 < state.emails.len() {
            true => format!(
                "Link: <{own}/api/v3/user/emails?per_page=100&page={}>; rel=\"next\", <{own}/x>; rel=\"last\"\r\n",
                page + 1
            ),
            false => String::new(),
        };
        return ok(out, &next, &state.emails[page]);
    }
    let member = path.strip_prefix("/user/memberships/orgs/").map(String::from).or_else(|| {
        let (org, team) = path.strip_prefix("/orgs/")?.split_once("/teams/")?;
        Some(format!("{org}/{}", team.strip_suffix(&format!("/memberships/{}", state.login))?))
    });
    let member = member.unwrap_or_else(|| panic!("nobody asks for {path}"));
    let decoded = percent_encoding::percent_decode_str(&member).decode_utf8().unwrap().to_lowercase();
    match state.memberships.get(&decoded) {
        Some(membership) => ok(out, "", &json!({"state": membership, "role": "member"})),
        None => text(out, "404 Not Found", "", r#"{"message":"Not Found"}"#),
    }
}
