//! The authorization endpoint (RFC 6749 section 4.1, OAuth 2.1, PKCE by RFC 7636), without its pages.
//!
//! [`read`] checks a request and stores nothing. A request that needs a user's decision becomes a [`Suspended`]: the
//! pages of `interaction` carry it, signed and bound to the browser, until [`allow`] or [`deny`] continues it.
//! [`allow`] creates the grant. Errors are sent to the redirect URI only after the check that the client has registered
//! it.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderValue, StatusCode};

use super::authorization_request::{Asked, Prompt, asked, proven_redirect};
use super::client_metadata::is_document;
use super::clients::NoClient;
use super::consent::{self, Decision, newest_grant_key};
use super::error::OAuthError;
use super::pending::Full;
use super::register::{self, USED_MARGIN};
use super::server::AuthorizationServer;
use crate::clock::Timestamp;
use crate::core::Core;
use crate::http::form::Form;
use crate::http::{Caller, Response};
use crate::identity::{ClientId, GrantId, User};
use crate::observe::events::Kind;
use crate::redirect_uri::RedirectUri;
use crate::resource::protected::{ProtectedResource, ProtectedResources};
use crate::resource_url::{ResourceUrl, Resources};
use crate::store::StoreError;
use crate::store::rows::{AuthMethod, Client, Consent, Grant, GrantType, Phase, Session};
use crate::tokens::artefacts::{AuthorizationCode, AuthorizationRequest, CODE_LIFETIME, REQUEST_LIFETIME};
use crate::tokens::random_name;

/// Longest accepted `state` parameter, in bytes.
const MAX_STATE: usize = 4_096;

/// An authorization request that waits for the user's decision.
#[derive(Clone)]
pub struct Suspended {
    /// What the client asked for.
    pub request: AuthorizationRequest,
    /// Where the answer goes.
    pub redirect: RedirectUri,
}

impl Suspended {
    /// Wraps a request, if its redirect URI is still acceptable. An older version of the proxy may have accepted a URI
    /// that this one refuses.
    pub fn of(request: AuthorizationRequest) -> Option<Suspended> {
        let redirect = RedirectUri::parse(&request.redirect_uri).ok()?;
        Some(Suspended { request, redirect })
    }

    /// Verifies a text from [`Suspended::sign`]. Returns the request if it has not expired and was made for the browser
    /// with this `binding`.
    pub fn verify(core: &Core, text: &str, binding: &str) -> Option<Suspended> {
        let request = core.keys.verify::<AuthorizationRequest>(text, core.now()).ok()?;
        Suspended::of(request).filter(|suspended| suspended.request.browser == binding)
    }

    /// Encodes the request as text for a form field: signed, not encrypted.
    pub fn sign(&self, core: &Core) -> String {
        core.keys.sign(&self.request)
    }

    /// Returns the client's row, or the copy in the request if the row was evicted in the meantime. Of a client with a
    /// document, the copy is what its document said when the request was checked.
    pub fn client(&self, core: &Core) -> Result<Option<Client>, StoreError> {
        if is_document(self.request.client.as_str()) {
            return Ok(self.request.registration.as_deref().cloned());
        }
        let row = core.state.get::<Client>(self.request.client.as_str())?;
        Ok(row.or_else(|| self.request.registration.as_deref().cloned()))
    }
}

/// What is wrong with a request that can't be answered to the client.
#[derive(Debug)]
pub enum Fault {
    /// The parameters can't be read.
    Unreadable(String),
    /// There is no `client_id`.
    NoClient,
    /// A parameter is wrong, as this says.
    Parameter(String),
    /// No client has this `client_id`.
    NotRegistered,
    /// The client's metadata document is refused.
    Document(String),
    /// It could not be fetched; it may work in a minute.
    DocumentUnreachable(String),
    /// The client is registered for other grant types.
    OtherUses,
    /// The redirect URI is none of the client's.
    ForeignRedirect,
}

/// Why a request is refused.
pub enum Refusal {
    /// Client or redirect URI could not be verified, so the error is shown to the user and not sent to the client.
    Page(Fault),
    /// The error can be sent to the client in a redirect.
    Redirect(Box<RefusedRedirect>),
    /// The consent was remembered, but no grant could be created, or the store can't be used.
    NotAllowed(NotAllowed),
}

/// An error for the client. Anyone may register a client, so the browser is redirected at once only if this user has an
/// active grant for the client. Otherwise the redirect is a link on a page: without that, this endpoint would be an
/// open redirector (RFC 9700 section 4.11.2).
pub struct RefusedRedirect {
    /// The client.
    pub client: ClientId,
    /// Where the answer goes.
    pub redirect: RedirectUri,
    /// The error.
    pub error: OAuthError,
    /// The redirect that carries the error to the client.
    pub response: Response,
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::NotAllowed(NotAllowed::Store(error))
    }
}

/// The next step for a valid request.
pub enum Step {
    /// The client gets its answer.
    Answer(Response),
    /// The user has to sign in; signing in is also the consent.
    SignIn(Suspended),
    /// The user of this session is asked for consent.
    Consent(Suspended, Box<Session>),
}

/// A valid request, before the browser's session is considered.
pub struct Opened {
    suspended: Suspended,
    client: Client,
    prompt: Prompt,
}

impl Opened {
    /// The client that sent the request.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Decides the next step for the browser's `session`; see [`Login::session`](crate::login::Login::session).
    pub fn next(self, server: &AuthorizationServer, session: Option<Session>, caller: Caller) -> Result<Step, Refusal> {
        let Opened { mut suspended, client, prompt } = self;
        let session = session.filter(|_| !suspended.request.sign_in_anew);
        let wants_page = prompt.consent || prompt.select_account;
        if let Some(session) = session.as_ref().filter(|_| !wants_page) {
            let key = consent::remembered_key(&server.core, &session.user, &suspended.request, &suspended.redirect);
            if consent::is_remembered(&server.core, key.as_deref())? {
                match allow(server, &suspended, &session.user, Decision::Earlier, caller) {
                    // Forgotten in this moment: the user is asked.
                    Err(NotAllowed::NoConsent) => {}
                    done => return done.map(Step::Answer).map_err(Refusal::NotAllowed),
                }
            }
        }
        match session {
            // OpenID Connect Core 3.1.2.1: `prompt=none` forbids pages, so the client gets an error.
            session if prompt.none => {
                let code = if session.is_some() { "consent_required" } else { "login_required" };
                let error = OAuthError::new(code, "the user has to decide on a page");
                let Suspended { request, redirect } = suspended;
                Err(refused_redirect(&server.core, client.id, redirect, request.state.as_deref(), error))
            }
            Some(session) => {
                suspended.request.session = Some(crate::login::session::binding(&session));
                Ok(Step::Consent(suspended, Box::new(session)))
            }
            None => Ok(Step::SignIn(suspended)),
        }
    }
}

fn refused_redirect(
    core: &Core,
    client: ClientId,
    redirect: RedirectUri,
    state: Option<&str>,
    error: OAuthError,
) -> Refusal {
    let parameters = [("error", error.code), ("error_description", error.description.as_str())];
    let response = answer(core, &redirect, state, &parameters);
    Refusal::Redirect(Box::new(RefusedRedirect { client, redirect, error, response }))
}

/// Why no grant was created.
pub enum NotAllowed {
    /// The consent has been forgotten in the meantime.
    NoConsent,
    /// The client is not registered any more.
    NotRegistered,
    /// Too many authorization codes were issued from this page or for this user.
    TooManyCodes(Full),
    /// The store can't be used just now.
    Store(StoreError),
}

impl From<StoreError> for NotAllowed {
    fn from(error: StoreError) -> NotAllowed {
        NotAllowed::Store(error)
    }
}

/// The user allowed the request: creates a pending grant and sends its authorization code to the client.
pub fn allow(
    server: &AuthorizationServer,
    suspended: &Suspended,
    user: &User,
    decision: Decision,
    caller: Caller,
) -> Result<Response, NotAllowed> {
    let core = &*server.core;
    let asked = &suspended.request;
    let now = core.now();
    let exp = now + CODE_LIFETIME;
    let Some(client) = suspended.client(core)? else { return Err(NotAllowed::NotRegistered) };
    let told = |kind| {
        caller.event(kind).with("user", &user.id).with("client", &client.id).with("client_name", client.shown_name())
    };
    let published = server.resources.now();
    // The page was made for other servers.
    if asked.of_file != published.whole().is_none() {
        return Ok(refuse_access(core, suspended, "the servers here have changed; connect again"));
    }
    let servers = usable(server, &published, asked, user)?;
    let is_usable = |url: &ResourceUrl| {
        published.named_by(url).is_some_and(|named| servers.iter().any(|server| server.name == named.name))
    };
    let Some(resources) = asked.resources.as_ref().and_then(|all| all.filter(is_usable)) else {
        told(Kind::AccessNotGiven).with("reason", NO_RULE).tell();
        return Ok(refuse_access(core, suspended, "this user may not use this server"));
    };
    if let Err(full) = server.pending.take(&asked.id, asked.exp, &user.id, exp, now) {
        told(Kind::AccessNotGiven).with("reason", "too many authorization codes wait to be redeemed").tell();
        return Err(NotAllowed::TooManyCodes(full));
    }
    if !client.used {
        register::make_room_for(core, &user.id)?;
    }
    let remembered = consent::remembered_key(core, user, asked, &suspended.redirect).map(|key| {
        let (user, client, expires_at) = (user.id.clone(), client.id.clone(), now + core.lifetimes.consent);
        (key, Consent { grant: None, user: Some(user), client: Some(client), expires_at })
    });
    let id = begin_grant(core, asked, resources, user, &client, (decision, remembered), exp)?;
    told(Kind::ConsentGiven).with("grant", &id).tell();
    servers.iter().for_each(|resource| resource.upstream.expect(user, &asked.client));
    let code = core.keys.sign(&AuthorizationCode { grant: id, exp });
    Ok(answer(core, &suspended.redirect, asked.state.as_deref(), &[("code", &code)]))
}

fn begin_grant(
    core: &Core,
    asked: &AuthorizationRequest,
    resources: Resources,
    user: &User,
    client: &Client,
    (decision, remembered): (Decision, Option<(String, Consent)>),
    exp: Timestamp,
) -> Result<GrantId, NotAllowed> {
    let (id, now) = (GrantId(random_name()), core.now());
    let (asked_by, for_user, grant, registered) = (asked.clone(), user.clone(), id.clone(), client.clone());
    let (refresh_total, newest) = (core.lifetimes.refresh_total, newest_grant_key(&user.id, &client.id));
    let is_allowed = core.state.transact(move |tx| {
        if !consent::is_given(tx, decision, remembered)? {
            return Ok(false);
        }
        // If the registration was evicted in the meantime, store it again, since a user has authorized it now.
        let known = tx.get::<Client>(registered.id.as_str())?;
        let client = match known {
            Some(known) if is_document(known.id.as_str()) => {
                Client { used: known.used, used_by: known.used_by, expires_at: known.expires_at, ..registered }
            }
            known => known.unwrap_or(registered),
        };
        let has_document = is_document(client.id.as_str());
        let row = Grant {
            id: grant.clone(),
            user: for_user.clone(),
            client: client.id.clone(),
            // That of a client with a document is settled when it redeems its code.
            auth_method: if has_document { AuthMethod::None } else { client.auth_method },
            resources: Some(resources),
            of_file: asked_by.of_file,
            phase: Phase::Pending {
                code_challenge: asked_by.code_challenge,
                redirect_uri: asked_by.redirect_uri,
                redirect_uri_given: asked_by.redirect_uri_given,
            },
            access_token_lifetime: 0,
            asserted: None,
            ended_at: 0,
            created_at: now,
            expires_at: exp,
        };
        tx.put(row.id.as_str(), &row);
        tx.put(&newest, &Consent { grant: Some(grant), user: None, client: None, expires_at: now + refresh_total });
        // Keep the registration longer than any of its grants can live.
        let until = now + refresh_total + USED_MARGIN;
        if !client.used || client.expires_at < until || has_document {
            let used_by = client.used_by.clone().or(Some(for_user.id));
            let expires_at = until.max(client.expires_at);
            tx.put(client.id.clone().as_str(), &Client { used: true, used_by, expires_at, ..client });
        }
        Ok(true)
    })?;
    if is_allowed { Ok(id) } else { Err(NotAllowed::NoConsent) }
}

/// Why a user gets no access, for the log.
pub const NO_RULE: &str = "no server's allow rules fit the user";

/// The user denied the request: sends `access_denied` to the client.
pub fn deny(core: &Core, suspended: &Suspended, caller: Caller) -> Response {
    let client = suspended.client(core).unwrap_or_default();
    let name = client.as_ref().map_or("", Client::shown_name);
    let event = caller.event(Kind::ConsentDenied).with("client", &suspended.request.client);
    event.with("client_name", name).tell();
    refuse_access(core, suspended, "the user denied access")
}

fn refuse_access(core: &Core, suspended: &Suspended, why: &str) -> Response {
    let error = [("error", "access_denied"), ("error_description", why)];
    answer(core, &suspended.redirect, suspended.request.state.as_deref(), &error)
}

/// The servers that a request is for, or that its user can choose from if it does not say which.
pub fn servers(published: &ProtectedResources, request: &AuthorizationRequest) -> Vec<Arc<ProtectedResource>> {
    let Some(resources) = &request.resources else { return published.all().to_vec() };
    let named: Vec<_> = resources.urls().iter().filter_map(|url| published.named_by(url)).collect();
    let is_asked = |resource: &&Arc<ProtectedResource>| named.iter().any(|one| one.name == resource.name);
    published.all().iter().filter(is_asked).cloned().collect()
}

/// Those of [`servers`] that this user may use.
pub fn usable(
    server: &AuthorizationServer,
    published: &ProtectedResources,
    request: &AuthorizationRequest,
    user: &User,
) -> Result<Vec<Arc<ProtectedResource>>, StoreError> {
    let mut usable = Vec::new();
    for resource in servers(published, request) {
        if resource.is_open_to(&server.login, &user.id)? {
            usable.push(resource);
        }
    }
    Ok(usable)
}

/// The client of a request. The document of one that has a document is fetched only for a request that is right otherwise.
fn client_of(
    server: &AuthorizationServer,
    form: &Form,
    asked: &Result<Asked, OAuthError>,
    caller: Caller,
) -> Result<Client, Refusal> {
    let id = form.get("client_id").ok_or(Refusal::Page(Fault::NoClient))?;
    if is_document(id) {
        let faulty = |why: &str| Refusal::Page(Fault::Parameter(why.to_string()));
        if let Err(error) = asked {
            return Err(faulty(&error.description));
        }
        if form.get("redirect_uri").is_some_and(|uri| RedirectUri::parse(uri).is_err()) {
            return Err(faulty("redirect_uri is not one that may be used"));
        }
    }
    let client = server.clients.find(&server.core, id, caller.address).map_err(|error| match error {
        NoClient::Unknown => Refusal::Page(Fault::NotRegistered),
        NoClient::Document(why) => Refusal::Page(Fault::Document(why.to_string())),
        NoClient::Unreachable(why) => Refusal::Page(Fault::DocumentUnreachable(why.to_string())),
        NoClient::Store(error) => error.into(),
    })?;
    match client.may(GrantType::AuthorizationCode) {
        true => Ok(client),
        false => Err(Refusal::Page(Fault::OtherUses)),
    }
}

/// Checks a request: first the client, then its redirect URI, then everything else, so that errors are redirected only
/// to a verified URI. Binds the request to the browser with this `binding`.
pub fn read(server: &AuthorizationServer, query: &str, binding: &str, caller: Caller) -> Result<Opened, Refusal> {
    let core = &*server.core;
    let form = Form::parse(query.as_bytes()).map_err(|e| Refusal::Page(Fault::Unreadable(e.to_string())))?;
    let asked = asked(server, &form);
    let client = client_of(server, &form, &asked, caller)?;
    let proven = proven_redirect(&client, form.get("redirect_uri"));
    let (redirect, redirect_uri_given) = proven.ok_or(Refusal::Page(Fault::ForeignRedirect))?;

    let state = form.get("state").map(str::to_string);
    let tell = |error: OAuthError| refused_redirect(core, client.id.clone(), redirect.clone(), state.as_deref(), error);
    if state.as_ref().is_some_and(|s| s.len() > MAX_STATE) {
        let error = OAuthError::new("invalid_request", "state is longer than 4096 bytes");
        return Err(refused_redirect(core, client.id, redirect, None, error));
    }
    let Asked { code_challenge, resources, prompt } = asked.map_err(tell)?;

    let is_document = is_document(client.id.as_str());
    let request = AuthorizationRequest {
        id: random_name(),
        client: client.id.clone(),
        registration: (!client.used || is_document).then(|| Box::new(copy(&client, &redirect))),
        redirect_uri: redirect.as_str().to_string(),
        redirect_uri_given,
        state,
        code_challenge,
        resources,
        of_file: server.resources.now().whole().is_none(),
        sign_in_anew: prompt.login,
        select_account: prompt.select_account,
        session: None,
        browser: binding.to_string(),
        exp: core.now() + REQUEST_LIFETIME,
    };
    Ok(Opened { suspended: Suspended { request, redirect }, client, prompt })
}

/// The copy of a client in its request. Of a document, which may be long, what the pages and the grant need.
fn copy(client: &Client, redirect: &RedirectUri) -> Client {
    match is_document(client.id.as_str()) {
        true => Client { redirect_uris: vec![redirect.as_str().into()], keys: None, ..client.clone() },
        false => client.clone(),
    }
}

/// Builds the redirect back to the client. Adds `iss` (RFC 9207), and `state` if the client sent one.
fn answer(core: &Core, redirect: &RedirectUri, state: Option<&str>, parameters: &[(&str, &str)]) -> Response {
    let mut all = parameters.to_vec();
    all.extend(state.map(|s| ("state", s)));
    all.push(("iss", core.keys.issuer()));
    Response::new(StatusCode::SEE_OTHER)
        .with(LOCATION, redirect.with_parameters(&all))
        .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with(http::header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_whose_redirect_is_refused_by_now_is_as_good_as_none() {
        let request = |redirect_uri: &str| AuthorizationRequest {
            id: "id".into(),
            client: ClientId("client".into()),
            registration: None,
            redirect_uri: redirect_uri.into(),
            redirect_uri_given: true,
            state: None,
            code_challenge: "challenge".into(),
            resources: None,
            of_file: true,
            sign_in_anew: false,
            select_account: false,
            session: None,
            browser: "browser".into(),
            exp: 1,
        };
        assert!(Suspended::of(request("https://client.example/callback")).is_some());
        assert!(Suspended::of(request("javascript:alert(1)")).is_none());
    }
}
