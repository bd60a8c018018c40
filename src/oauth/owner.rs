//! What was allowed, for those whom it concerns: lists grants and applications, and ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::consent;
use super::server::AuthorizationServer;
use crate::clock::Timestamp;
use crate::identity::{ClientId, GrantId, SessionId, UserId};
use crate::resource_url::Resources;
use crate::store::StoreError;
use crate::store::rows::{Client, Consent, Grant, LastUse, Phase, Session};

/// Grants that are revoked in one transaction, so that those of requests run in between.
const BATCH: usize = 200;

/// An application that a user has let in.
pub struct ConnectedApp {
    /// The client.
    pub client: ClientId,
    /// Its name.
    pub name: Option<String>,
    /// Where authorization responses go, or where its metadata document is: a host, or nothing for a program on the user's
    /// computer.
    pub host: Option<String>,
    /// The titles of the servers that it may use; empty for the only one.
    pub servers: BTreeSet<String>,
    /// When the first of its grants was given.
    pub since: Timestamp,
    /// When and from where it was last used.
    pub last_use: Option<LastUse>,
}

/// A grant, as its owner sees it.
pub struct GrantView {
    /// The grant.
    pub grant: Grant,
    /// The name of its client.
    pub client_name: Option<String>,
    /// The names of the servers that it opens; empty for the only one.
    pub servers: Vec<String>,
    /// When and from where it was last used.
    pub last_use: Option<LastUse>,
}

/// All grants that can be used, and that `is_wanted`.
pub fn grants(server: &AuthorizationServer, is_wanted: impl Fn(&Grant) -> bool) -> Result<Vec<GrantView>, StoreError> {
    let mut found = Vec::new();
    server.core.state.scan::<Grant>(|_, grant| {
        if grant.is_live() && server.login.is_current(&grant.user.credential) && is_wanted(&grant) {
            found.push(grant);
        }
    })?;
    found.sort_by_key(|grant| (grant.created_at, grant.id.clone()));
    let published = server.resources.now();
    let whole = Resources::new(Vec::new(), &server.core.external.origin);
    let view = |grant: Grant| {
        let client = server.core.state.get::<Client>(grant.client.as_str())?;
        let resources = grant.resources.as_ref().unwrap_or(&whole);
        let named = resources.urls().iter().filter_map(|url| published.named_for(url, grant.of_file));
        let servers: BTreeSet<String> = named.map(|named| named.name.clone()).filter(|name| !name.is_empty()).collect();
        Ok(GrantView {
            client_name: client.and_then(|client| client.name),
            servers: servers.into_iter().collect(),
            last_use: server.seen.last_use(&grant.id),
            grant,
        })
    };
    found.into_iter().map(view).collect()
}

/// The applications that a user has let in, the newest first.
pub fn apps(server: &AuthorizationServer, user: &UserId) -> Result<Vec<ConnectedApp>, StoreError> {
    let mut apps: BTreeMap<ClientId, ConnectedApp> = BTreeMap::new();
    let published = server.resources.now();
    for view in grants(server, |grant| grant.user.id == *user)? {
        let title = |name: &String| {
            let named = published.all().iter().find(|resource| resource.name == *name);
            named.map_or_else(|| name.clone(), |resource| resource.title.clone())
        };
        let titles = view.servers.iter().map(title);
        let app = apps.entry(view.grant.client.clone()).or_insert_with(|| ConnectedApp {
            client: view.grant.client.clone(),
            name: view.client_name.clone(),
            host: host_of(&view.grant),
            servers: BTreeSet::new(),
            since: view.grant.created_at,
            last_use: None,
        });
        app.servers.extend(titles);
        app.since = app.since.min(view.grant.created_at);
        app.last_use = app.last_use.into_iter().chain(view.last_use).max_by_key(|last| last.at);
    }
    let mut apps: Vec<_> = apps.into_values().collect();
    apps.sort_by_key(|app| std::cmp::Reverse(app.since));
    Ok(apps)
}

fn host_of(grant: &Grant) -> Option<String> {
    use crate::redirect_uri::{Destination, RedirectUri};
    let (Phase::Active { redirect_uri, .. } | Phase::Pending { redirect_uri, .. }) = &grant.phase else { return None };
    let redirect = RedirectUri::parse(redirect_uri).ok()?;
    (redirect.destination() == Destination::Web).then(|| redirect.host().to_string())
}

/// Revokes all grants that `is_meant`, pending ones too, forgets the consents that go with them, and cuts their streams.
/// Returns how many grants ended.
pub fn revoke(server: &AuthorizationServer, is_meant: impl Fn(&Grant) -> bool) -> Result<usize, StoreError> {
    let core = &*server.core;
    let meant = || {
        let mut meant: Vec<Grant> = Vec::new();
        core.state.scan::<Grant>(|_, grant| {
            if grant.phase != Phase::Revoked && is_meant(&grant) {
                meant.push(grant);
            }
        })?;
        Ok::<_, StoreError>(meant)
    };
    let known = meant()?;
    // First the consents: a grant that is begun from now on needs a new one. Those that were begun before are found then.
    let pairs: BTreeSet<_> = known.iter().map(|grant| (grant.user.id.clone(), grant.client.clone())).collect();
    forget_consents(server, |user, client| pairs.contains(&(user.clone(), client.clone())))?;
    let of_old = known.iter().filter_map(|grant| consent::key_of_grant(core, grant)).collect();
    core.state.remove::<Consent>(of_old)?;
    let ids: Vec<GrantId> = meant()?.into_iter().map(|grant| grant.id).collect();
    let lifetime = core.lifetimes.access_token;
    for batch in ids.chunks(BATCH) {
        let batch = batch.to_vec();
        core.state.transact(move |tx| {
            for id in batch {
                if let Some(grant) = tx.get::<Grant>(id.as_str())?.filter(|grant| grant.phase != Phase::Revoked) {
                    tx.revoke(grant, lifetime);
                }
            }
            Ok(())
        })?;
    }
    let ended: BTreeSet<_> = ids.iter().cloned().collect();
    server.streams.cut_if(|grant, _| ended.contains(grant));
    Ok(ids.len())
}

fn forget_consents(
    server: &AuthorizationServer,
    is_meant: impl Fn(&UserId, &ClientId) -> bool,
) -> Result<(), StoreError> {
    let mut keys = Vec::new();
    server.core.state.scan::<Consent>(|key, row| {
        if let (None, Some(user), Some(client)) = (&row.grant, &row.user, &row.client)
            && is_meant(user, client)
        {
            keys.push(key.to_string());
        }
    })?;
    server.core.state.remove::<Consent>(keys).map(drop)
}

/// Takes the access of applications away: forgets all consents for which `is_consent` is true, also those without a grant at
/// the moment, and ends all grants that `is_meant`. Returns how many grants ended.
pub fn disconnect(
    server: &AuthorizationServer,
    is_consent: impl Fn(&UserId, &ClientId) -> bool,
    is_meant: impl Fn(&Grant) -> bool,
) -> Result<usize, StoreError> {
    forget_consents(server, is_consent)?;
    revoke(server, is_meant)
}

/// The same for one user's application, or for all of the user's.
pub fn disconnect_user(
    server: &AuthorizationServer,
    user: &UserId,
    client: Option<&ClientId>,
) -> Result<usize, StoreError> {
    let fits = |of: &UserId, by: &ClientId| of == user && client.is_none_or(|client| client == by);
    disconnect(server, fits, |grant| fits(&grant.user.id, &grant.client))
}

/// A browser that a user is signed in with.
pub struct BrowserSession {
    /// The session.
    pub id: SessionId,
    /// Since when.
    pub since: Timestamp,
    /// From where.
    pub address: Option<IpAddr>,
    /// What kind of browser.
    pub browser: Option<String>,
}

/// The browsers that a user is signed in with, the newest first.
pub fn sessions(server: &AuthorizationServer, user: &UserId) -> Result<Vec<BrowserSession>, StoreError> {
    let mut found = Vec::new();
    let oldest = server.core.now().saturating_sub(server.core.lifetimes.session);
    server.core.state.scan::<Session>(|_, session| {
        if session.user.id == *user && session.created_at > oldest && server.login.is_current(&session.user.credential)
        {
            let Session { id, created_at, address, browser, .. } = session;
            found.push(BrowserSession { id, since: created_at, address, browser });
        }
    })?;
    found.sort_by_key(|session| std::cmp::Reverse(session.since));
    Ok(found)
}

/// Signs browsers of a user out: all whose session `is_meant`. Returns how many there were.
pub fn sign_out(
    server: &AuthorizationServer,
    user: &UserId,
    is_meant: impl Fn(&SessionId) -> bool,
) -> Result<usize, StoreError> {
    let mut keys = Vec::new();
    server.core.state.scan::<Session>(|key, session| {
        if session.user.id == *user && is_meant(&session.id) {
            keys.push(key.to_string());
        }
    })?;
    server.core.state.remove::<Session>(keys)
}
