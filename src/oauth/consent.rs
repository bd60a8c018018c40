//! Remembered consents, and the newest grant for each pair of user and client.

use crate::core::Core;
use crate::encoding::digest;
use crate::identity::{ClientId, User, UserId};
use crate::redirect_uri::{Destination, RedirectUri};
use crate::resource_url::Resources;
use crate::store::StoreError;
use crate::store::rows::{Consent, Grant, Phase};
use crate::tokens::artefacts::AuthorizationRequest;

/// The key of a remembered consent. `None` if the client did not say what it wants access to: the user chooses each time.
fn key(core: &Core, user: &User, request: &AuthorizationRequest, redirect: &RedirectUri) -> Option<String> {
    let resources = request.resources.as_ref()?;
    Some(key_for(core, &user.id, &request.client, redirect.host(), resources, request.of_file))
}

fn key_for(core: &Core, user: &UserId, client: &ClientId, host: &str, resources: &Resources, of_file: bool) -> String {
    let mut key = format!("{user}\0{client}\0{host}");
    // Earlier versions knew no resources: their consents are for the whole origin.
    for url in resources.urls().iter().filter(|url| url.as_str() != core.external.origin) {
        key.push('\0');
        key.push_str(url.as_str());
    }
    // The same URL is another server then.
    if of_file {
        key.push_str("\0file");
    }
    digest(key.as_bytes())
}

/// The key of the consent that may have been remembered with a grant. Rows of earlier versions do not say whose they are.
pub(super) fn key_of_grant(core: &Core, grant: &Grant) -> Option<String> {
    let (Phase::Active { redirect_uri, .. } | Phase::Pending { redirect_uri, .. }) = &grant.phase else { return None };
    let redirect = RedirectUri::parse(redirect_uri).ok()?;
    let whole = Resources::new(Vec::new(), &core.external.origin);
    let resources = grant.resources.as_ref().unwrap_or(&whole);
    Some(key_for(core, &grant.user.id, &grant.client, redirect.host(), resources, grant.of_file))
}

/// The key of the row that names the newest grant.
pub(super) fn newest_grant_key(user: &UserId, client: &ClientId) -> String {
    digest(format!("{user}\0{client}").as_bytes())
}

/// Has the user allowed this client before, for the same resources and with a redirect to the same host? Any program on
/// the user's machine can receive a redirect to that machine, so such a client always needs a new consent (RFC 8252
/// section 8.6).
pub(super) fn is_remembered(
    core: &Core,
    user: &User,
    request: &AuthorizationRequest,
    redirect: &RedirectUri,
) -> Result<bool, StoreError> {
    if redirect.destination() != Destination::Web {
        return Ok(false);
    }
    let Some(key) = key(core, user, request, redirect) else { return Ok(false) };
    Ok(core.state.get::<Consent>(&key)?.is_some())
}

/// Remembers a consent, so that the page can be skipped next time. Does nothing for a redirect to the user's own
/// machine, where the page is always shown.
pub fn remember(
    core: &Core,
    user: &User,
    request: &AuthorizationRequest,
    redirect: &RedirectUri,
) -> Result<(), StoreError> {
    if redirect.destination() != Destination::Web {
        return Ok(());
    }
    let Some(key) = key(core, user, request, redirect) else { return Ok(()) };
    let expires_at = core.now() + core.lifetimes.consent;
    let (user, client) = (user.id.clone(), request.client.clone());
    core.state.transact(move |tx| {
        tx.put(&key, &Consent { grant: None, user: Some(user), client: Some(client), expires_at });
        Ok(())
    })
}

/// Is the user's newest grant for this client active?
pub fn has_active_grant(core: &Core, user: &UserId, client: &ClientId) -> Result<bool, StoreError> {
    let Some(consent) = core.state.get::<Consent>(&newest_grant_key(user, client))? else { return Ok(false) };
    let Some(grant) = consent.grant else { return Ok(false) };
    Ok(core.state.get::<Grant>(grant.as_str())?.is_some_and(|grant| matches!(grant.phase, Phase::Active { .. })))
}
