//! Replaces the keys of the proxy while it serves: the secret that all keys are derived from, and the key of identity
//! assertions.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::config::passwords;
use crate::clock::Timestamp;
use crate::data_dir;
use crate::encoding::digest;
use crate::flags::{self, Invocation};
use crate::identity::ClientId;
use crate::lock::Unpoisoned;
use crate::oauth::AuthorizationServer;
use crate::oauth::client_auth::derived_secrets;
use crate::oauth::owner;
use crate::observe::events::{Event, Kind};
use crate::resource::identity_fields::IdentityFields;
use crate::store::StoreError;
use crate::store::rows::{AuthMethod, Client, McpSession, Session};
use crate::tokens::artefacts::DEVICE_LIFETIME;
use crate::tokens::signing::SigningKey;
use crate::tokens::{Keys, Secret};

/// How much longer a previous secret verifies than anything that was signed with it can live, in seconds.
const MARGIN: u64 = 86_400;
/// Requests that were under way when keys leaked may have begun with an old one; they are done after this time.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// The secrets that are in use.
#[derive(Clone)]
pub struct Secrets {
    /// The one whose keys sign.
    pub current: Secret,
    /// Earlier ones, the latest first, with the time until which each verifies.
    pub previous: Vec<(Secret, Timestamp)>,
    /// They come from the environment, and not from the data directory.
    pub is_from_environment: bool,
}

impl Secrets {
    /// One secret, which is not kept.
    pub fn only(current: Secret) -> Secrets {
        Secrets { current, previous: Vec::new(), is_from_environment: true }
    }

    /// The earlier ones that still verify.
    pub(in crate::app) fn verifying(&self, now: Timestamp) -> Vec<Secret> {
        self.previous.iter().filter(|(_, until)| *until > now).map(|(secret, _)| secret.clone()).collect()
    }
}

/// Replaces keys.
pub(in crate::app) struct KeyRotation {
    pub(in crate::app) server: Arc<AuthorizationServer>,
    pub(in crate::app) identity_fields: Option<Arc<IdentityFields>>,
    pub(in crate::app) data: PathBuf,
    pub(in crate::app) secrets: Mutex<Secrets>,
}

impl KeyRotation {
    /// Replaces all keys. After a leak nothing that is signed can be believed, dates neither: the old keys verify nothing
    /// from this moment.
    pub(super) fn rotate(&self, is_compromised: bool) -> Result<Value, String> {
        let mut secrets = self.secrets.lock().unpoisoned();
        if secrets.is_from_environment {
            return Err(match is_compromised {
                true => "the secret is in the environment (AUTH_HMAC_SECRET): put another one there, leave the old one out of AUTH_HMAC_PREVIOUS_SECRETS, and restart",
                false => "the secret is in the environment (AUTH_HMAC_SECRET): put another one there, move the old one to AUTH_HMAC_PREVIOUS_SECRETS, and restart",
            }
            .into());
        }
        let settings = match flags::of_process()? {
            Invocation::Serve(settings) => settings,
            _ => return Err("the settings of this proxy can't be read again".into()),
        };
        let passwords = passwords::configure(&settings)?;
        let core = &self.server.core;
        let now = core.now();
        let stored = |e: StoreError| format!("the store can't be written, so nothing was changed: {e}");
        if !is_compromised {
            self.keep_derived_secrets().map_err(stored)?;
        }
        let before = Keys::new(core.keys.issuer(), &secrets.current, &secrets.verifying(now));
        let next = Secrets {
            current: Secret::generate(),
            previous: match is_compromised {
                true => Vec::new(),
                false => {
                    let longest = core.lifetimes.refresh_total.max(DEVICE_LIFETIME) + MARGIN;
                    let kept = secrets.previous.iter().filter(|(_, until)| *until > now).cloned();
                    [(secrets.current.clone(), now + longest)].into_iter().chain(kept).collect()
                }
            },
            is_from_environment: false,
        };
        data_dir::store_secrets(&self.data, &next.current, &next.previous)
            .map_err(|e| format!("the data directory can't be written: {e}"))?;
        core.keys.replace(&next.current, &next.verifying(now));
        *secrets = next;
        let signed_out = if is_compromised { self.believe_nothing(&before, now)? } else { 0 };
        let replaced = self.server.login.passwords.replace(&passwords, &core.keys, &core.state);
        replaced.map_err(|e| {
            format!("the keys were replaced, but the passwords can't be stored; restart the proxy: {e}")
        })?;
        self.rotate_assertion_key(is_compromised, now)?;
        match is_compromised {
            true => Event::new(Kind::KeysCompromised).count("grants", signed_out).tell(),
            false => Event::new(Kind::KeysReplaced).tell(),
        }
        Ok(json!({"rotated": true, "compromised": is_compromised, "grants_ended": signed_out}))
    }

    /// Writes down the secrets of clients that an earlier version derived from its keys, as digests.
    fn keep_derived_secrets(&self) -> Result<(), StoreError> {
        let core = &self.server.core;
        for id in self.clients_with_derived_secrets()? {
            let digests: Vec<String> = derived_secrets(core, &id).iter().map(|s| digest(s.as_bytes())).collect();
            core.state.transact(move |tx| {
                if let Some(client) = tx.get::<Client>(id.as_str())? {
                    tx.put(id.as_str(), &Client { secret_digests: digests, ..client });
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn clients_with_derived_secrets(&self) -> Result<Vec<ClientId>, StoreError> {
        let mut ids = Vec::new();
        self.server.core.state.scan::<Client>(|_, client| {
            let has_secret = matches!(client.auth_method, AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost);
            if has_secret && client.secret_digests.is_empty() {
                ids.push(client.id);
            }
        })?;
        Ok(ids)
    }

    /// Ends whatever was given under the old keys, `before`. Returns the number of grants.
    fn believe_nothing(&self, before: &Keys, now: Timestamp) -> Result<usize, String> {
        let server = &self.server;
        let state = &server.core.state;
        let failed = |e: StoreError| {
            format!("the old keys verify nothing any more, but the store can't be written: repeat the command ({e})")
        };
        let mut ended = owner::revoke(server, |_| true).map_err(failed)?;
        let clear = || -> Result<(), StoreError> {
            let (mut sessions, mut mcp) = (Vec::new(), Vec::new());
            state.scan::<Session>(|key, _| sessions.push(key.to_string()))?;
            state.scan::<McpSession>(|key, _| mcp.push(key.to_string()))?;
            state.remove::<Session>(sessions)?;
            state.remove::<McpSession>(mcp)?;
            // Whoever has the keys knows these secrets.
            let clients = self.clients_with_derived_secrets()?;
            state.remove::<Client>(clients.into_iter().map(|id| id.0).collect()).map(drop)
        };
        clear().map_err(failed)?;
        server.login.user_records.encrypt_anew(before);
        std::thread::sleep(UNDER_WAY);
        ended += owner::revoke(server, |grant| grant.created_at <= now).map_err(failed)?;
        Ok(ended)
    }

    fn rotate_assertion_key(&self, is_compromised: bool, now: Timestamp) -> Result<(), String> {
        let Some(key) = &self.server.assertions else { return Ok(()) };
        let before = key.now();
        let next = SigningKey::generate((!is_compromised).then_some(&*before), now)?;
        data_dir::store_assertion_key(&self.data, &next).map_err(|e| {
            format!("the key of identity assertions can't be written; the other keys were replaced: {e}")
        })?;
        key.replace(next);
        if let Some(fields) = &self.identity_fields {
            fields.forget();
        }
        Ok(())
    }
}
