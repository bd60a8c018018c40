//! The resource server (RFC 6750, RFC 9728): a bearer token becomes a principal, or the right challenge goes back.

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use crate::context::Context;
use crate::http::Response;
use crate::identity::{GrantId, Principal, SCOPE};
use crate::login::pages;
use crate::oauth::metadata::resource_metadata_url;
use crate::store::State;
use crate::store::rows::{Grant, Phase};
use crate::tokens::TokenError;
use crate::tokens::access::AccessToken;

/// Why a request has no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It has no bearer token: some clients start OAuth only when there is no `error` in the challenge.
    NoToken,
    /// Its token is not good; the reason is for the developer who reads it.
    BadToken(&'static str),
}

/// The principal of the request's bearer token. Reads memory only.
pub fn principal(ctx: &Context, seen: &Seen, headers: &HeaderMap) -> Result<Principal, Denial> {
    let token = verify(ctx, headers)?;
    seen.note(&token);
    let person = match ctx.providers.of_credential(&token.credential) {
        // Memory, but for the first request of a user after a start.
        Some(_) => match ctx.people.get(ctx, &token.sub) {
            Ok(None) => return Err(Denial::BadToken("the user was turned away since")),
            known => known.unwrap_or_default(),
        },
        None => None,
    };
    Ok(Principal {
        user: token.sub,
        // What the provider said last.
        email: person.as_ref().map_or(token.email, |person| person.identity.email.clone()),
        client: token.client_id,
        grant: token.grant,
        expires_at: token.exp,
        person,
    })
}

/// The request's bearer token, if it is good.
pub fn verify(ctx: &Context, headers: &HeaderMap) -> Result<AccessToken, Denial> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Err(Denial::NoToken) };
    if fields.next().is_some() {
        return Err(Denial::BadToken("there are two Authorization fields"));
    }
    let text = field.to_str().map_err(|_| Denial::BadToken("the token is malformed"))?;
    let Some((_, token)) = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(Denial::NoToken);
    };
    let token = AccessToken::verify(token.trim(), &ctx.keys, ctx.now()).map_err(|e| match e {
        TokenError::Invalid => Denial::BadToken("the token is not valid"),
        TokenError::Expired => Denial::BadToken("the token has expired"),
    })?;
    if ctx.state.is_revoked(&token.grant) {
        return Err(Denial::BadToken("the token has been revoked"));
    }
    if ctx.state.is_superseded(&token.grant, token.generation, token.attempt) {
        return Err(Denial::BadToken("another token has taken the place of this one"));
    }
    match ctx.providers.of_credential(&token.credential) {
        // Refreshing re-evaluates the allow rules.
        Some(provider) if token.rules.as_ref() != Some(&provider.rules().digest()) => {
            return Err(Denial::BadToken("who may enter has been changed since; the token has to be refreshed"));
        }
        Some(_) => {}
        None if !ctx.passwords.is_current(&token.credential) => {
            return Err(Denial::BadToken("the password, or the way to sign in, has been changed since"));
        }
        None => {}
    }
    Ok(token)
}

/// 401 with the way to a token. `path` is that of the request.
pub fn challenge(ctx: &Context, path: &str, headers: &HeaderMap, denial: Denial) -> Response {
    let metadata = resource_metadata_url(ctx, path);
    let mut value = format!("Bearer resource_metadata=\"{metadata}\", scope=\"{SCOPE}\"");
    let body = match denial {
        Denial::NoToken => {
            json!({"error": "unauthorized", "error_description": "a bearer token is needed", "resource_metadata": metadata})
        }
        Denial::BadToken(why) => {
            value.push_str(&format!(", error=\"invalid_token\", error_description=\"{why}\""));
            json!({"error": "invalid_token", "error_description": why, "resource_metadata": metadata})
        }
    };
    let response = if denial == Denial::NoToken && is_browser(headers) {
        pages::not_for_browsers(ctx)
    } else {
        Response::json(StatusCode::UNAUTHORIZED, &body)
    };
    response.with(WWW_AUTHENTICATE, value).with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// A person's browser asks for HTML by name; MCP clients never do.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"))
}

/// Notes that a client uses the newest generation of its tokens, so that the refresh token before it dies.
///
/// The guard does no I/O: the row is written by a thread of its own, once for each generation.
pub struct Seen {
    noted: Mutex<HashMap<GrantId, (u64, u64)>>,
    queue: SyncSender<(GrantId, u64, u64)>,
}

/// Generations remembered as noted; forgetting one costs a needless write.
const MAX_NOTED: usize = 10_000;
/// Notes that may wait to be written; one more is made again with the next request.
const MAX_WAITING: usize = 1_000;

impl Seen {
    /// Starts the thread that writes the notes.
    pub fn start(state: Arc<State>) -> std::io::Result<Seen> {
        let (queue, notes) = sync_channel::<(GrantId, u64, u64)>(MAX_WAITING);
        std::thread::Builder::new().name("seen".into()).spawn(move || {
            for (grant, generation, attempt) in notes {
                // A failure is told by the state itself; the grace then simply lasts longer.
                let _ = mark_seen(&state, grant, generation, attempt);
            }
        })?;
        Ok(Seen { noted: Mutex::default(), queue })
    }

    fn note(&self, token: &AccessToken) {
        // The first generation has no predecessor that could be alive.
        if token.generation < 2 {
            return;
        }
        let mut noted = self.noted.lock().unwrap_or_else(|e| e.into_inner());
        let newest = (token.generation, token.attempt);
        if noted.get(&token.grant).is_some_and(|known| *known >= newest) {
            return;
        }
        if noted.len() >= MAX_NOTED {
            noted.clear();
        }
        if self.queue.try_send((token.grant.clone(), token.generation, token.attempt)).is_ok() {
            noted.insert(token.grant.clone(), newest);
        }
    }
}

fn mark_seen(state: &State, id: GrantId, generation: u64, attempt: u64) -> Result<(), crate::store::StoreError> {
    state.transact(move |tx| {
        if let Some(mut grant) = tx.get::<Grant>(id.as_str())?
            && let Phase::Active { rotation, .. } = &mut grant.phase
            && (rotation.generation, rotation.attempt) == (generation, attempt)
            && !rotation.seen
        {
            rotation.seen = true;
            tx.put(id.as_str(), &grant);
        }
        Ok(())
    })
}
