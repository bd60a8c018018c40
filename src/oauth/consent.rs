//! Remembered consents, and the newest grant for each pair of user and client.

use crate::core::Core;
use crate::encoding::digest;
use crate::identity::{ClientId, User, UserId};
use crate::redirect_uri::{Destination, RedirectUri};
use crate::resource_url::Resources;
use crate::store::rows::{Consent, Grant, Phase};
use crate::store::{StoreError, Tx};
use crate::tokens::artefacts::AuthorizationRequest;

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

/// The key of the row in which a consent is remembered, so that the page can be skipped next time; `None` if the user is asked
/// each time. That is so for a redirect to the user's own machine, which any program there can receive (RFC 8252 section
/// 8.6), and for a client that does not say what it wants access to.
pub(super) fn remembered_key(
    core: &Core,
    user: &User,
    request: &AuthorizationRequest,
    redirect: &RedirectUri,
) -> Option<String> {
    let resources = request.resources.as_ref().filter(|_| redirect.destination() == Destination::Web)?;
    Some(key_for(core, &user.id, &request.client, redirect.host(), resources, request.of_file))
}

/// Has the user allowed this client before, for the same resources and with a redirect to the same host?
pub(super) fn is_remembered(core: &Core, key: Option<&str>) -> Result<bool, StoreError> {
    let Some(key) = key else { return Ok(false) };
    Ok(core.state.get::<Consent>(key)?.is_some())
}

/// When the user allowed a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Just now; this is remembered for the next time.
    Now,
    /// Earlier: a remembered consent, which still has to be there.
    Earlier,
}

/// Has the user allowed what a grant is for? `remembered` is the row in which consents for it are remembered, with its key.
///
/// This is a part of the transaction that writes the grant. So whoever forgets the consents first, and then looks for
/// grants, finds each one that was given without asking.
pub(super) fn is_given(
    tx: &mut Tx<'_>,
    decision: Decision,
    remembered: Option<(String, Consent)>,
) -> Result<bool, StoreError> {
    match (decision, remembered) {
        (Decision::Now, Some((key, row))) => tx.put(&key, &row),
        (Decision::Now, None) => {}
        (Decision::Earlier, Some((key, _))) => return Ok(tx.get::<Consent>(&key)?.is_some()),
        (Decision::Earlier, None) => return Ok(false),
    }
    Ok(true)
}

/// Is the user's newest grant for this client active?
pub fn has_active_grant(core: &Core, user: &UserId, client: &ClientId) -> Result<bool, StoreError> {
    let Some(consent) = core.state.get::<Consent>(&newest_grant_key(user, client))? else { return Ok(false) };
    let Some(grant) = consent.grant else { return Ok(false) };
    Ok(core.state.get::<Grant>(grant.as_str())?.is_some_and(|grant| matches!(grant.phase, Phase::Active { .. })))
}
