//! What follows when somebody may not enter any more: grants end, and streams that are open are cut.

use super::people::Standing;
use crate::context::Context;
use crate::identity::{GrantId, User};
use crate::store::rows::{Grant, Phase};

/// Ends a grant: its refresh tokens, its access tokens, its streams. `why` is for the log.
pub fn end_grant(ctx: &Context, id: &GrantId, user: &User, why: &str) {
    let (grant, lifetime) = (id.clone(), ctx.config.lifetimes.access_token);
    let ended = ctx.state.transact(move |tx| {
        if let Some(row) = tx.get::<Grant>(grant.as_str())?.filter(|g| g.phase != Phase::Revoked) {
            tx.revoke(row, lifetime);
        }
        Ok(())
    });
    let streams = ctx.streams.cut(id);
    if let Err(e) = ended {
        log::debug!(grant:% = id, error:% = e; "an authorization could not be ended; the next refresh tries again");
    }
    log::warn!(user:% = user.id, grant:% = id, streams = streams, reason = why; "a user may not enter any more: the authorization has ended");
}

/// Looks after streams that are open: those whose grant has ended are cut, and where the token that vouched for one has
/// run out, its user is asked after, as at a refresh.
pub fn look_after_streams(ctx: &Context) {
    cut_ended(ctx);
    // One that began while rules were changed, and those of users turned away elsewhere.
    apply_rules(ctx);
    for id in ctx.streams.due(ctx.now()) {
        match ctx.state.get::<Grant>(id.as_str()) {
            Ok(Some(grant)) if ctx.providers.of_credential(&grant.user.credential).is_some() => {
                match ctx.people.ask_after(ctx, &grant.user, grant.created_at) {
                    Standing::Allowed(_) => prolong(ctx, &id),
                    Standing::Denied(why) => end_grant(ctx, &id, &grant.user, &why),
                    Standing::Unknown(why) => {
                        let streams = ctx.streams.cut(&id);
                        log::warn!(user:% = grant.user.id, grant:% = id, streams = streams, reason = why.as_str(); "streams were cut: the provider can't be asked after their user, and what it said last is too old (--identity-lifetime, IDENTITY_LIFETIME)");
                    }
                }
                // Asking may take its time.
                cut_ended(ctx);
            }
            Ok(Some(grant)) if ctx.is_current(&grant.user.credential) => prolong(ctx, &id),
            Ok(_) => {
                ctx.streams.cut(&id);
            }
            // They stay due.
            Err(_) => {}
        }
    }
}

fn cut_ended(ctx: &Context) {
    for id in ctx.streams.grants() {
        if ctx.state.is_revoked(&id) {
            ctx.streams.cut(&id);
        }
    }
}

fn prolong(ctx: &Context, id: &GrantId) {
    ctx.streams.vouch(id, ctx.now() + ctx.config.lifetimes.access_token);
}

/// Has streams looked at whose user is not let in as far as is known. Tokens made under rules that have been changed are
/// refused, so that all others come to be looked at as well.
fn apply_rules(ctx: &Context) {
    for id in ctx.streams.grants() {
        if let Ok(Some(grant)) = ctx.state.get::<Grant>(id.as_str())
            && !matches!(ctx.people.is_admitted(ctx, &grant.user), Ok(true))
        {
            ctx.streams.vouch(&id, 0);
        }
    }
}
