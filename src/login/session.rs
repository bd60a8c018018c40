//! The proxy's cookies: browser, session and device.
//!
//! Cookies are shared by all ports of a host, so their names carry a digest of the issuer. With an https external URL
//! they have the `__Host-` prefix: no subdomain and no plain http can set them.

use std::net::IpAddr;

use http::header::{COOKIE, SET_COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderValue};

use crate::core::Core;
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
    /// The browser has no cookie yet; the response has to set it.
    new: bool,
}

impl Browser {
    /// Did the browser send no valid browser cookie?
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// The browser that sent `headers`, or a new one.
    pub fn of(core: &Core, headers: &HeaderMap) -> Browser {
        match read::<BrowserCookie>(core, headers, "browser") {
            Some(cookie) => Browser { name: cookie.browser, new: false },
            None => Browser { name: random_name(), new: true },
        }
    }

    /// The random name, which only this browser knows. Values derived from it can't be computed from a URL or a page.
    pub fn secret(&self) -> &str {
        &self.name
    }

    /// A digest of the name, which binds forms to this browser.
    pub fn binding(&self) -> String {
        digest(self.name.as_bytes())
    }

    /// Adds the cookie where the browser has none yet.
    pub fn remember(&self, core: &Core, response: &mut Response) {
        if self.new {
            let cookie = BrowserCookie { browser: self.name.clone() };
            append(core, response, "browser", &core.keys.sign(&cookie), None);
        }
    }
}

/// The stored session that the browser's cookie names. Does not check its age or its user's credential.
pub fn stored(core: &Core, headers: &HeaderMap) -> Result<Option<Session>, StoreError> {
    let Some(cookie) = read::<SessionCookie>(core, headers, "session") else { return Ok(None) };
    core.state.get::<Session>(cookie.session.as_str())
}

/// Starts a session under a new id, replaces the old one if there is one, and returns the cookies to set. After a
/// password sign-in (`is_password`) the browser becomes a known device. After a sign-in at a provider it does not,
/// since a known device gets password attempts of its own from the throttle.
pub fn start(
    core: &Core,
    headers: &HeaderMap,
    user: User,
    is_password: bool,
    address: IpAddr,
) -> Result<(Session, Vec<HeaderValue>), StoreError> {
    let created_at = core.now();
    let expires_at = created_at + core.lifetimes.session;
    let (address, browser) = (Some(address), browser_name(headers));
    let session = Session { id: SessionId(random_name()), user, created_at, address, browser, expires_at };
    let old = read::<SessionCookie>(core, headers, "session").map(|c| c.session);
    let row = session.clone();
    core.state.transact(move |tx| {
        if let Some(old) = old {
            tx.delete::<Session>(old.as_str());
        }
        tx.put(row.id.as_str(), &row);
        Ok(())
    })?;
    let cookie = core.keys.sign(&SessionCookie { session: session.id.clone(), exp: expires_at });
    let mut cookies = vec![header(core, "session", &cookie, Some(core.lifetimes.session))];
    if is_password {
        let credential = session.user.credential.clone();
        let known = device(core, headers).filter(|cookie| cookie.credential == credential);
        let device = DeviceCookie {
            device: known.map_or_else(random_name, |cookie| cookie.device),
            credential,
            exp: created_at + DEVICE_LIFETIME,
        };
        cookies.push(header(core, "device", &core.keys.sign(&device), Some(DEVICE_LIFETIME)));
    }
    Ok((session, cookies))
}

/// What kind of browser it is, by its User-Agent field: `Firefox on Linux`.
fn browser_name(headers: &HeaderMap) -> Option<String> {
    const BROWSERS: [(&str, &str); 6] = [
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("CriOS/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 6] = [
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ];
    let agent = headers.get(USER_AGENT)?.to_str().ok()?;
    let of =
        |names: &[(&str, &'static str)]| names.iter().find(|(part, _)| agent.contains(part)).map(|(_, name)| *name);
    match (of(&BROWSERS), of(&SYSTEMS)) {
        (Some(browser), Some(system)) => Some(format!("{browser} on {system}")),
        (Some(name), None) | (None, Some(name)) => Some(name.to_string()),
        (None, None) => None,
    }
}

/// Ends the browser's session, if it has one, and deletes its cookie; returns the id of the session.
pub fn end(core: &Core, headers: &HeaderMap, response: &mut Response) -> Result<Option<Session>, StoreError> {
    response.headers.append(SET_COOKIE, header(core, "session", "", Some(0)));
    let Some(cookie) = read::<SessionCookie>(core, headers, "session") else { return Ok(None) };
    core.state.transact(move |tx| {
        let session = tx.get::<Session>(cookie.session.as_str())?;
        tx.delete::<Session>(cookie.session.as_str());
        Ok(session)
    })
}

/// The device cookie. Does not check whether its password is still configured.
pub fn device(core: &Core, headers: &HeaderMap) -> Option<DeviceCookie> {
    read::<DeviceCookie>(core, headers, "device")
}

/// A digest of the session's id. The consent page sends it back, so that a consent counts only in the session for which
/// the page was made.
pub fn binding(session: &Session) -> String {
    binding_of(&session.id)
}

/// The same for a session of which only the id is at hand.
pub fn binding_of(id: &SessionId) -> String {
    digest(format!("session\0{id}").as_bytes())
}

/// The full cookie name, such as `__Host-mcp_1a2b3c4d_session`.
fn cookie_name(core: &Core, name: &str) -> String {
    let prefix = if core.external.secure { "__Host-" } else { "" };
    let issuer: String =
        digest(core.keys.issuer().as_bytes()).chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("{prefix}mcp_{issuer}_{name}")
}

/// The first cookie of that name that is genuine. Another site on the same host or domain may have set a cookie of the
/// same name, which the browser may send first.
fn read<A: Artefact>(core: &Core, headers: &HeaderMap, name: &str) -> Option<A> {
    let name = cookie_name(core, name);
    let now = core.now();
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(n, _)| *n == name)
        .find_map(|(_, value)| core.keys.verify::<A>(value, now).ok())
}

fn append(core: &Core, response: &mut Response, name: &str, value: &str, max_age: Option<u64>) {
    response.headers.append(SET_COOKIE, header(core, name, value, max_age));
}

fn header(core: &Core, name: &str, value: &str, max_age: Option<u64>) -> HeaderValue {
    let secure = if core.external.secure { "; Secure" } else { "" };
    let age = max_age.map(|s| format!("; Max-Age={s}")).unwrap_or_default();
    let text = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}", cookie_name(core, name));
    let mut value = HeaderValue::try_from(text).expect("names and sealed values are ASCII");
    value.set_sensitive(true);
    value
}
