//! What a browser's cookies say.
//!
//! Cookies are shared by all ports of a host, so their names carry a digest of the issuer. With an https external URL
//! they have the `__Host-` prefix: no subdomain and no plain http can set them.

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

use crate::context::Context;
use crate::encoding::digest;
use crate::http::Response;
use crate::identity::{SessionId, User};
use crate::store::StoreError;
use crate::store::rows::Session;
use crate::tokens::artefacts::{BrowserCookie, DEVICE_LIFETIME, DeviceCookie, SessionCookie};
use crate::tokens::{Artefact, random_name};

/// A browser, told apart from others by a random name in a cookie.
pub struct Browser {
    name: String,
    /// The cookie has to be set with the answer.
    new: bool,
}

impl Browser {
    /// Did it send no cookie of this server's?
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// The browser that sent `headers`, or a new one.
    pub fn of(ctx: &Context, headers: &HeaderMap) -> Browser {
        match read::<BrowserCookie>(ctx, headers, "browser") {
            Some(cookie) => Browser { name: cookie.browser, new: false },
            None => Browser { name: random_name(), new: true },
        }
    }

    /// Known to the browser alone: what is made from it can be made by nobody who sees a URL or a page.
    pub fn secret(&self) -> &str {
        &self.name
    }

    /// What forms are bound to.
    pub fn binding(&self) -> String {
        digest(self.name.as_bytes())
    }

    /// Adds the cookie where the browser has none yet.
    pub fn remember(&self, ctx: &Context, response: &mut Response) {
        if self.new {
            let cookie = BrowserCookie { browser: self.name.clone() };
            append(ctx, response, "browser", &ctx.keys.seal(&cookie), None);
        }
    }
}

/// The session of the browser that sent `headers`, if its user's credential is still good and the user may still enter.
pub fn current(ctx: &Context, headers: &HeaderMap) -> Result<Option<Session>, StoreError> {
    let Some(cookie) = read::<SessionCookie>(ctx, headers, "session") else { return Ok(None) };
    let Some(session) = ctx.state.get::<Session>(cookie.session.as_str())? else { return Ok(None) };
    let is_over = ctx.now() >= session.created_at.saturating_add(ctx.config.lifetimes.session);
    let is_good = !is_over
        && ctx.is_current(&session.user.credential)
        && ctx.people.is_welcome(ctx, &session.user, session.created_at)?;
    Ok(is_good.then_some(session))
}

/// Starts a session under a new id, whatever session there was before. Whoever knew a password has a browser that is known
/// for it; what a provider says of somebody is no reason to let a browser guess.
pub fn start(ctx: &Context, headers: &HeaderMap, user: User) -> Result<(Session, Vec<HeaderValue>), StoreError> {
    let created_at = ctx.now();
    let expires_at = created_at + ctx.config.lifetimes.session;
    let session = Session { id: SessionId(random_name()), user, created_at, expires_at };
    let old = read::<SessionCookie>(ctx, headers, "session").map(|c| c.session);
    let row = session.clone();
    ctx.state.transact(move |tx| {
        if let Some(old) = old {
            tx.delete::<Session>(old.as_str());
        }
        tx.put(row.id.as_str(), &row);
        Ok(())
    })?;
    let cookie = ctx.keys.seal(&SessionCookie { session: session.id.clone(), exp: expires_at });
    let mut cookies = vec![header(ctx, "session", &cookie, Some(ctx.config.lifetimes.session))];
    let credential = session.user.credential.clone();
    if ctx.passwords.is_current(&credential) {
        let known = read::<DeviceCookie>(ctx, headers, "device").filter(|cookie| cookie.credential == credential);
        let device = DeviceCookie {
            device: known.map_or_else(random_name, |cookie| cookie.device),
            credential,
            exp: created_at + DEVICE_LIFETIME,
        };
        cookies.push(header(ctx, "device", &ctx.keys.seal(&device), Some(DEVICE_LIFETIME)));
    }
    Ok((session, cookies))
}

/// Ends the browser's session, if it has one.
pub fn end(ctx: &Context, headers: &HeaderMap, response: &mut Response) -> Result<Option<SessionId>, StoreError> {
    response.headers.append(SET_COOKIE, header(ctx, "session", "", Some(0)));
    let Some(cookie) = read::<SessionCookie>(ctx, headers, "session") else { return Ok(None) };
    let id = cookie.session.clone();
    ctx.state.transact(move |tx| {
        tx.delete::<Session>(id.as_str());
        Ok(())
    })?;
    Ok(Some(cookie.session))
}

/// The name of a browser in which somebody has signed in before with a password that is still good.
pub fn known_device(ctx: &Context, headers: &HeaderMap) -> Option<String> {
    let cookie = read::<DeviceCookie>(ctx, headers, "device")?;
    ctx.passwords.is_current(&cookie.credential).then_some(cookie.device)
}

/// What a consent is bound to: the session that the page was made for.
pub fn binding(session: &Session) -> String {
    digest(format!("session\0{}", session.id).as_bytes())
}

/// `__Host-mcp_1a2b3c4d_session`.
fn cookie_name(ctx: &Context, name: &str) -> String {
    let prefix = if ctx.config.external.secure { "__Host-" } else { "" };
    let issuer: String =
        digest(ctx.keys.issuer().as_bytes()).chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("{prefix}mcp_{issuer}_{name}")
}

/// The first cookie of that name that is genuine: a neighbour may have set another before it.
fn read<A: Artefact>(ctx: &Context, headers: &HeaderMap, name: &str) -> Option<A> {
    let name = cookie_name(ctx, name);
    let now = ctx.now();
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(n, _)| *n == name)
        .find_map(|(_, value)| ctx.keys.open::<A>(value, now).ok())
}

fn append(ctx: &Context, response: &mut Response, name: &str, value: &str, max_age: Option<u64>) {
    response.headers.append(SET_COOKIE, header(ctx, name, value, max_age));
}

fn header(ctx: &Context, name: &str, value: &str, max_age: Option<u64>) -> HeaderValue {
    let secure = if ctx.config.external.secure { "; Secure" } else { "" };
    let age = max_age.map(|s| format!("; Max-Age={s}")).unwrap_or_default();
    let text = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}", cookie_name(ctx, name));
    let mut value = HeaderValue::try_from(text).expect("names and sealed values are ASCII");
    value.set_sensitive(true);
    value
}
