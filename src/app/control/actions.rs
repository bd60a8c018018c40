//! What each request on the control socket does.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::protocol::{ControlRequest, NewClient, Which};
use super::rotation::KeyRotation;
use crate::app::backup::format;
use crate::app::health::Health;
use crate::clock::Timestamp;
use crate::encoding::{base64url, digest};
use crate::flags::VERSION;
use crate::flags::values::duration;
use crate::identity::{ClientId, GrantId, UserId};
use crate::oauth::AuthorizationServer;
use crate::oauth::client_metadata::is_document;
use crate::oauth::owner;
use crate::observe::events::{Event, Kind};
use crate::redirect_uri::RedirectUri;
use crate::resource::open_streams::OpenStreams;
use crate::store::StoreError;
use crate::store::rows::{AuthMethod, Client, Grant, GrantType, McpSession, Preregistration, Session};
use crate::tls::certificates::Certificates;
use crate::tokens::jwt::KeySet;
use crate::tokens::random;

/// How long reading files again may take.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest name of a client or a key.
const MAX_NAME: usize = 64;
/// Most clients that the operator can register.
const MAX_CLIENTS: usize = 1_000;

/// An order to read files again, with the way back for what came of it.
pub(in crate::app) type ReloadOrder = Sender<Result<String, String>>;

/// What the requests are carried out on.
pub(in crate::app) struct Control {
    pub(in crate::app) server: Arc<AuthorizationServer>,
    pub(in crate::app) streams: OpenStreams,
    pub(in crate::app) certificates: Option<Arc<Certificates>>,
    pub(in crate::app) health: Health,
    pub(in crate::app) rotation: KeyRotation,
    pub(in crate::app) reload: Sender<ReloadOrder>,
    pub(in crate::app) started: Instant,
}

fn stored(e: StoreError) -> String {
    format!("the store can't be used just now: {e}")
}

impl Control {
    /// Does what the request says. The error is a sentence for the operator.
    pub(super) fn carry_out(&self, request: ControlRequest) -> Result<Value, String> {
        match request {
            ControlRequest::Status {} => self.status(),
            ControlRequest::Reload {} => self.reload(),
            ControlRequest::Backup {} => Ok(json!({"follows": true})),
            ControlRequest::ClientsList {} => self.clients(),
            ControlRequest::ClientsAdd(client) => self.add_client(client),
            ControlRequest::ClientsRemove { client_id } => self.remove_client(&client_id),
            ControlRequest::KeysList {} => Ok(self.keys()),
            ControlRequest::KeysAdd { name, servers, lifetime } => self.add_key(&name, servers, lifetime),
            ControlRequest::KeysRevoke { name } => self.revoke_key(&name),
            ControlRequest::KeysRotate { compromised } => self.rotation.rotate(compromised),
            ControlRequest::GrantsList(which) => self.grants(&which),
            ControlRequest::GrantsRevoke(which) => self.revoke_grants(&which),
            ControlRequest::UsersList {} => self.users(),
            ControlRequest::UsersSignOut { user, apps } => self.sign_out(&user, apps),
            ControlRequest::SessionsList {} => self.sessions(),
        }
    }

    fn status(&self) -> Result<Value, String> {
        let state = &self.server.core.state;
        let servers = self.server.resources.now();
        let servers: Vec<Value> = servers
            .all()
            .iter()
            .map(|s| json!({"name": s.name, "url": s.url().as_str(), "is_down": s.upstream.is_down()}))
            .collect();
        let certificate = self.certificates.as_ref().map(|certificates| {
            let pair = certificates.current();
            json!({"names": pair.info.names, "expires_at": pair.info.not_after, "is_trusted": pair.is_trusted})
        });
        // A store that can't be read is one of the things that are told here.
        let live = owner::grants(&self.server, |_| true).ok().map(|grants| grants.len());
        Ok(json!({
            "health": self.health.now().json(),
            "version": VERSION.trim(),
            "uptime": self.started.elapsed().as_secs(),
            "external_url": self.server.core.external.origin,
            "certificate": certificate,
            "servers": servers,
            "clients": state.count::<Client>().ok(),
            "grants": live,
            "sessions": state.count::<Session>().ok(),
            "api_keys": self.server.login.api_keys.all().len(),
            "streams": self.streams.count(),
        }))
    }

    /// Writes a copy of the data directory.
    pub(super) fn backup(&self, out: &mut dyn Write) -> io::Result<()> {
        let bytes = format::write(&mut io::BufWriter::new(out), &self.rotation.data, &self.server.core.state)?;
        Event::new(Kind::OperatorBackup).count("bytes", bytes).tell();
        Ok(())
    }

    fn reload(&self) -> Result<Value, String> {
        let (answer, answered) = channel();
        self.reload.send(answer).map_err(|_| "the thread that reads files again has ended; restart the proxy")?;
        let outcome =
            answered.recv_timeout(RELOAD_TIMEOUT).map_err(|_| "it takes too long; the log will say what came of it")?;
        outcome.map(|said| json!({"said": said}))
    }

    fn clients(&self) -> Result<Value, String> {
        let mut grants: BTreeMap<ClientId, usize> = BTreeMap::new();
        for view in owner::grants(&self.server, |_| true).map_err(stored)? {
            *grants.entry(view.grant.client).or_default() += 1;
        }
        let mut all = Vec::new();
        self.server.core.state.scan::<Client>(|_, client| all.push(client)).map_err(stored)?;
        all.sort_by_key(|client| (client.preregistered.is_none(), client.issued_at, client.id.clone()));
        let show = |client: &Client| {
            let kind = match &client.preregistered {
                Some(_) => "operator",
                None if is_document(client.id.as_str()) => "document",
                None => "registered",
            };
            json!({
                "client_id": client.id, "name": client.name, "kind": kind, "auth_method": client.auth_method,
                "grant_types": client.preregistered.as_ref().map(|of| &of.grant_types),
                "servers": client.preregistered.as_ref().map(|of| &of.servers),
                "introspects": client.preregistered.as_ref().is_some_and(|of| of.introspects),
                "redirect_uris": client.redirect_uris, "issued_at": client.issued_at,
                "grants": grants.get(&client.id).copied().unwrap_or(0),
            })
        };
        Ok(all.iter().map(show).collect())
    }

    fn add_client(&self, new: NewClient) -> Result<Value, String> {
        check_name(&new.name)?;
        new.token_lifetime.map_or(Ok(()), check_lifetime)?;
        self.check_servers(&new.servers)?;
        let (of, auth_method) = checked(&new)?;
        let core = &self.server.core;
        let has_secret = auth_method == AuthMethod::ClientSecretBasic;
        let secret = has_secret.then(|| base64url(random::<32>()));
        let client = Client {
            id: ClientId(new.name.clone()),
            name: Some(new.name.clone()),
            redirect_uris: new.redirect_uris,
            auth_method,
            application_type: None,
            issued_at: core.now(),
            used: true,
            used_by: None,
            network: None,
            secret_digests: secret.iter().map(|secret| digest(secret.as_bytes())).collect(),
            keys: new.keys,
            preregistered: Some(of),
            expires_at: Timestamp::MAX,
        };
        let mut there = 0;
        core.state.scan::<Client>(|_, client| there += usize::from(client.preregistered.is_some())).map_err(stored)?;
        if there >= MAX_CLIENTS {
            return Err(format!("there are {MAX_CLIENTS} clients of yours already; remove some first"));
        }
        let is_new = core.state.transact(move |tx| {
            let is_new = tx.get::<Client>(client.id.as_str())?.is_none();
            if is_new {
                tx.put(client.id.clone().as_str(), &client);
            }
            Ok(is_new)
        });
        if !is_new.map_err(stored)? {
            return Err(format!("there is a client '{}' already; remove it first, or choose another name", new.name));
        }
        Event::new(Kind::OperatorAddedClient).with("client", &new.name).tell();
        let mut answer = json!({"client_id": new.name});
        if let Some(secret) = secret {
            answer["client_secret"] = secret.into();
        }
        Ok(answer)
    }

    fn remove_client(&self, id: &str) -> Result<Value, String> {
        let state = &self.server.core.state;
        if state.get::<Client>(id).map_err(stored)?.is_none() {
            return Err(format!("there is no client '{id}'; 'mcp-auth-proxy clients list' shows all"));
        }
        // The client first, so that it gets no other grant.
        state.remove::<Client>(vec![id.to_string()]).map_err(stored)?;
        let ended = owner::revoke(&self.server, |grant| grant.client.as_str() == id).map_err(stored)?;
        Event::new(Kind::OperatorRemovedClient).with("client", id).count("grants", ended).tell();
        Ok(json!({"removed": id, "grants": ended}))
    }

    fn keys(&self) -> Value {
        let keys = self.server.login.api_keys.all();
        let show = |key: &Arc<crate::store::rows::ApiKey>| {
            let last =
                self.server.seen.last_use(&GrantId::of_api_key(&key.name)).filter(|last| last.at >= key.created_at);
            json!({
                "name": key.name, "servers": key.servers, "created_at": key.created_at, "expires_at": key.expires_at,
                "last_used_at": last.map(|last| last.at), "last_used_from": last.map(|last| last.address),
            })
        };
        keys.iter().map(show).collect()
    }

    fn add_key(&self, name: &str, servers: Vec<String>, lifetime: u64) -> Result<Value, String> {
        let login = &self.server.login;
        if !login.api_keys.is_on() {
            return Err("API keys are switched off: start the proxy with --api-keys (API_KEYS)".into());
        }
        check_name(name)?;
        check_lifetime(lifetime)?;
        self.check_servers(&servers)?;
        let expires_at = self.server.core.now().saturating_add(lifetime);
        let text = login.api_keys.add(&self.server.core.state, name, servers, expires_at)?;
        Event::new(Kind::OperatorAddedKey).with("user", UserId::of_api_key(name)).tell();
        Ok(json!({"name": name, "key": text, "expires_at": expires_at}))
    }

    fn revoke_key(&self, name: &str) -> Result<Value, String> {
        let login = &self.server.login;
        if !login.api_keys.revoke(&self.server.core.state, name).map_err(stored)? {
            return Err(format!("there is no key '{name}'; 'mcp-auth-proxy keys list' shows all"));
        }
        let cut = self.streams.cut(&GrantId::of_api_key(name));
        let event = Event::new(Kind::OperatorRevokedKey).with("user", UserId::of_api_key(name));
        event.count("streams", cut).tell();
        Ok(json!({"revoked": name}))
    }

    fn check_servers(&self, names: &[String]) -> Result<(), String> {
        let published = self.server.resources.now();
        if !names.is_empty() && published.whole().is_some() {
            return Err(
                "--server names a server of a servers file (--servers, SERVERS); here is only one, so leave it out"
                    .into(),
            );
        }
        match names.iter().find(|name| !published.all().iter().any(|server| server.name == **name)) {
            Some(name) => Err(format!("there is no server '{name}'; 'mcp-auth-proxy status' shows all")),
            None => Ok(()),
        }
    }

    /// Does a grant fit the conditions?
    fn fits(&self, which: &Which, grant: &Grant) -> bool {
        let is_user = |wanted: &String| is_meant(&grant.user.id, grant.user.email.as_ref(), wanted);
        (which.grants.is_empty() || which.grants.iter().any(|id| id == grant.id.as_str()))
            && which.user.as_ref().is_none_or(is_user)
            && which.client_id.as_ref().is_none_or(|id| id == grant.client.as_str())
            && which.before.is_none_or(|time| grant.created_at < time)
    }

    fn grants(&self, which: &Which) -> Result<Value, String> {
        let views = owner::grants(&self.server, |grant| self.fits(which, grant)).map_err(stored)?;
        let show = |view: &owner::GrantView| {
            let (grant, last) = (&view.grant, view.last_use);
            json!({
                "grant": grant.id, "user": grant.user.id, "email": grant.user.email, "client_id": grant.client,
                "client_name": view.client_name, "issuer": grant.asserted.as_ref().map(|asserted| &asserted.issuer),
                "servers": view.servers, "created_at": grant.created_at, "expires_at": grant.expires_at,
                "last_used_at": last.map(|last| last.at), "last_used_from": last.map(|last| last.address),
            })
        };
        Ok(views.iter().map(show).collect())
    }

    fn revoke_grants(&self, which: &Which) -> Result<Value, String> {
        if which.is_empty() {
            return Err("say which grants: their ids, --user, --client, --before, or --all".into());
        }
        // Remembered consents have no time and no id of a grant: those that go with a grant end with it.
        let of_all = which.grants.is_empty() && which.before.is_none();
        let users = which.user.as_ref().map(|user| self.users_named(user)).transpose()?;
        let is_consent = |user: &UserId, client: &ClientId| {
            of_all
                && users.as_ref().is_none_or(|users| users.contains(user))
                && which.client_id.as_ref().is_none_or(|id| id == client.as_str())
        };
        let ended = owner::disconnect(&self.server, is_consent, |grant| self.fits(which, grant)).map_err(stored)?;
        if ended == 0 && !which.grants.is_empty() {
            return Err("there is no such grant; 'mcp-auth-proxy grants list' shows all".into());
        }
        Event::new(Kind::OperatorRevokedGrants).count("grants", ended).tell();
        Ok(json!({"revoked": ended}))
    }

    fn users(&self) -> Result<Value, String> {
        #[derive(Default)]
        struct Known {
            email: Option<String>,
            sessions: usize,
            grants: usize,
            last_sign_in: Timestamp,
        }
        let mut users: BTreeMap<UserId, Known> = BTreeMap::new();
        let state = &self.server.core.state;
        state
            .scan::<Session>(|_, session| {
                if !self.server.login.is_current(&session.user.credential) {
                    return;
                }
                let known = users.entry(session.user.id).or_default();
                known.sessions += 1;
                known.email = session.user.email.or(known.email.take());
                known.last_sign_in = known.last_sign_in.max(session.created_at);
            })
            .map_err(stored)?;
        for view in owner::grants(&self.server, |_| true).map_err(stored)? {
            let known = users.entry(view.grant.user.id).or_default();
            known.grants += 1;
            known.email = view.grant.user.email.or(known.email.take());
        }
        let show = |(id, known): (&UserId, &Known)| {
            let last = (known.last_sign_in > 0).then_some(known.last_sign_in);
            json!({"user": id, "email": known.email, "sessions": known.sessions, "grants": known.grants, "last_sign_in": last})
        };
        Ok(users.iter().map(show).collect())
    }

    /// The users that are meant by this text.
    fn users_named(&self, user: &str) -> Result<Vec<UserId>, String> {
        let mut ids: Vec<UserId> = Vec::new();
        let mut note = |id: &UserId, email: Option<&String>| {
            if is_meant(id, email, user) && !ids.contains(id) {
                ids.push(id.clone());
            }
        };
        let state = &self.server.core.state;
        state.scan::<Session>(|_, session| note(&session.user.id, session.user.email.as_ref())).map_err(stored)?;
        state.scan::<Grant>(|_, grant| note(&grant.user.id, grant.user.email.as_ref())).map_err(stored)?;
        Ok(ids)
    }

    fn sign_out(&self, user: &str, apps: bool) -> Result<Value, String> {
        let ids = self.users_named(user)?;
        if ids.is_empty() {
            return Err(format!(
                "there is no user '{user}' with a browser or an application; 'mcp-auth-proxy users list' shows all"
            ));
        }
        let (mut sessions, mut grants) = (0, 0);
        for id in &ids {
            sessions += owner::sign_out(&self.server, id, |_| true).map_err(stored)?;
            if apps {
                grants += owner::disconnect_user(&self.server, id, None).map_err(stored)?;
            }
        }
        let event = Event::new(Kind::OperatorSignedOut).with("user", user).count("sessions", sessions);
        event.count("grants", grants).tell();
        Ok(json!({"sessions": sessions, "grants": grants}))
    }

    fn sessions(&self) -> Result<Value, String> {
        let mut all = Vec::new();
        let scanned = self.server.core.state.scan::<McpSession>(|_, session| {
            all.push(json!({
                "server": session.server, "user": session.user, "client_id": session.client, "expires_at": session.expires_at,
            }));
        });
        scanned.map_err(stored)?;
        Ok(all.into())
    }
}

/// Names are ids in log lines, rules and tokens.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // A client that has registered itself has an id of 22 or 24 such characters.
    match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain) {
        true => Ok(()),
        false => Err(format!("'{name}' can't be a name: it has letters, digits, '.', '_' and '-', at most {MAX_NAME}")),
    }
}

/// Lifetimes, in seconds, have the bounds of durations on the command line.
fn check_lifetime(seconds: u64) -> Result<(), String> {
    duration(&seconds.to_string()).map(drop).map_err(|why| format!("the lifetime {why}"))
}

/// What a new client may do, and how it authenticates.
fn checked(new: &NewClient) -> Result<(Preregistration, AuthMethod), String> {
    let mut grant_types = new.grant_types.clone();
    if grant_types.is_empty() && !new.introspect {
        grant_types.push(match new.redirect_uris.is_empty() {
            true => GrantType::ClientCredentials,
            false => GrantType::AuthorizationCode,
        });
    }
    let is_for_people = grant_types.contains(&GrantType::AuthorizationCode);
    if is_for_people == new.redirect_uris.is_empty() {
        return Err("a client that a person allows (authorization_code) has redirect URIs, and only such a client: --redirect-uri".into());
    }
    for uri in &new.redirect_uris {
        RedirectUri::parse(uri).map_err(|why| format!("--redirect-uri '{uri}': {why}"))?;
    }
    if new.public && (new.introspect || grant_types.iter().any(|t| *t != GrantType::AuthorizationCode)) {
        return Err(
            "--public is for a client that a person allows; one that acts without a person has to authenticate".into(),
        );
    }
    if new.public && new.keys.is_some() {
        return Err("--public and keys exclude each other".into());
    }
    if is_for_people && !new.servers.is_empty() {
        return Err("--server is for a client that acts without a person: a person chooses what to allow".into());
    }
    if let Some(crate::store::rows::ClientKeys::Jwks(jwks)) = &new.keys {
        KeySet::of(jwks).map_err(|why| format!("--jwks-file: {why}"))?;
        if KeySet::has_secrets(jwks) {
            return Err("--jwks-file: there is a private key in it; give the public ones only".into());
        }
    }
    if let Some(crate::store::rows::ClientKeys::JwksUri(uri)) = &new.keys {
        crate::http::client::GuardedUrl::parse(uri).map_err(|why| format!("--jwks-uri: {why}"))?;
    }
    let auth_method = match (new.public, &new.keys) {
        (true, _) => AuthMethod::None,
        (false, Some(_)) => AuthMethod::PrivateKeyJwt,
        (false, None) => AuthMethod::ClientSecretBasic,
    };
    let of = Preregistration {
        grant_types,
        introspects: new.introspect,
        servers: new.servers.clone(),
        token_lifetime: new.token_lifetime,
    };
    Ok((of, auth_method))
}

/// Does `wanted` mean this user: by id, by e-mail address, or by the name in the htpasswd file?
fn is_meant(id: &UserId, email: Option<&String>, wanted: &str) -> bool {
    id.as_str() == wanted
        || email.is_some_and(|email| email == wanted)
        || id.as_str().strip_prefix("htpasswd:").is_some_and(|name| name == wanted)
}
