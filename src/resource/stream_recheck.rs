//! Ends the grants and cuts the open streams of users who may not enter any more.

use super::open_streams::OpenStreams;
use super::protected::ProtectedResources;
use crate::core::Core;
use crate::identity::{GrantId, User};
use crate::login::Login;
use crate::login::providers::user_records::Recheck;
use crate::observe::events::{Event, Kind};
use crate::store::rows::{Grant, Phase};

/// Ends a grant with its refresh tokens, access tokens and streams. `why` is for the log.
pub fn end_grant(core: &Core, streams: &OpenStreams, id: &GrantId, user: &User, why: &str) {
    let (grant, lifetime) = (id.clone(), core.lifetimes.access_token);
    let ended = core.state.transact(move |tx| {
        if let Some(row) = tx.get::<Grant>(grant.as_str())?.filter(|g| g.phase != Phase::Revoked) {
            tx.revoke(row, lifetime);
        }
        Ok(())
    });
    let cut = streams.cut(id);
    let event = Event::new(Kind::GrantEnded).with("user", &user.id).with("grant", id).count("streams", cut);
    match ended {
        Ok(()) => event.with("reason", why).tell(),
        Err(e) => {
            event.with("reason", format!("{why}; the store failed, so it ends with the next refresh: {e}")).tell()
        }
    }
}

/// Checks all open streams. Cuts those whose grant has ended. When a stream is due, because the token that it was
/// opened with has expired, asks the provider whether the user may still enter, as at a refresh.
pub fn recheck_streams(login: &Login, streams: &OpenStreams, published: &ProtectedResources) {
    cut_ended(login, streams);
    cut_closed(login, streams, published);
    // Finds streams that were opened while the rules changed, and streams of users who were turned away elsewhere.
    apply_rules(login, streams);
    for id in streams.due(login.core.now()) {
        match login.core.state.get::<Grant>(id.as_str()) {
            Ok(Some(grant)) if login.providers.of_credential(&grant.user.credential).is_some() => {
                match login.user_records.recheck(&grant.user, grant.created_at) {
                    Recheck::Allowed(_) => prolong(login, streams, &id),
                    Recheck::Denied(why) => end_grant(&login.core, streams, &id, &grant.user, &why),
                    Recheck::Unknown(why) => {
                        let cut = streams.cut(&id);
                        let event = Event::new(Kind::StreamsCut).with("user", &grant.user.id).with("grant", &id);
                        let reason = format!(
                            "the provider can't be asked about their user, and its last answer is too old (--identity-lifetime, IDENTITY_LIFETIME): {why}"
                        );
                        event.count("streams", cut).with("reason", reason).tell();
                    }
                }
                // Asking the provider may have taken long: other grants may have ended meanwhile.
                cut_ended(login, streams);
            }
            // Without a refresh token, a stream lasts as long as the token that has opened it.
            Ok(Some(grant)) if grant.phase == Phase::Direct => {
                streams.cut(&id);
            }
            Ok(Some(grant)) if login.is_current(&grant.user.credential) => prolong(login, streams, &id),
            Ok(_) => {
                streams.cut(&id);
            }
            // The store can't be read: the streams stay due, and the next call checks them.
            Err(_) => {}
        }
    }
}

fn cut_ended(login: &Login, streams: &OpenStreams) {
    for id in streams.grants() {
        if login.core.state.is_revoked(&id) {
            streams.cut(&id);
        }
    }
}

/// Cuts streams of servers whose rules do not admit the user, and of servers that are not published any more those that
/// answer no request.
fn cut_closed(login: &Login, streams: &OpenStreams, published: &ProtectedResources) {
    for id in streams.grants() {
        // An API key has no grant; its user is the key.
        let (Ok(grant), Some(user)) = (login.core.state.get::<Grant>(id.as_str()), streams.user(&id)) else { continue };
        for name in streams.servers(&id) {
            let Some(server) = published.all().iter().find(|server| server.name == name) else {
                streams.cut_endless(&name, u64::MAX);
                continue;
            };
            // If the store can't be read, the next call checks again.
            let is_open = match &grant {
                Some(grant) => server.is_open_to_grant(login, grant),
                None => server.is_open_to(login, &user),
            };
            if !is_open.unwrap_or(true) {
                let cut = streams.cut_if(|of, from| *of == id && from == name);
                let event = Event::new(Kind::StreamsCut).with("user", &user).with("grant", &id).with("server", &name);
                event.count("streams", cut).with("reason", "the server's allow rules do not fit the user").tell();
            }
        }
    }
}

fn prolong(login: &Login, streams: &OpenStreams, id: &GrantId) {
    streams.recheck_at(id, login.core.now() + login.core.lifetimes.access_token);
}

/// Marks streams as due for a check if their user is not admitted by what is known now. All other users are checked
/// when they refresh, because access tokens issued under the old rules are refused.
fn apply_rules(login: &Login, streams: &OpenStreams) {
    for id in streams.grants() {
        if let Ok(Some(grant)) = login.core.state.get::<Grant>(id.as_str())
            && (!login.is_current(&grant.user.credential)
                || !matches!(login.user_records.is_admitted(&grant.user), Ok(true)))
        {
            streams.recheck_at(&id, 0);
        }
    }
}
