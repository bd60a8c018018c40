//! Tells the MCP server who the user is: header fields with claims (`--header-mapping`), and a signed assertion that the
//! server can verify (`--identity-assertion`).

use std::sync::{Arc, Mutex, RwLock};

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::protected::ProtectedResource;
use crate::bounded_map::BoundedMap;
use crate::clock::Timestamp;
use crate::core::Core;
use crate::identity::{GrantId, Principal};
use crate::lock::Unpoisoned;
use crate::tokens::random_name;
use crate::tokens::signing::SigningKey;
use crate::upstream::encode_identity;

/// The type of an assertion, so that it is not taken for another token of this issuer.
const TYPE: &str = "identity-assertion+jwt";
/// How long an assertion is good, in seconds, and how long it is used again: signing one costs more than a request.
const LIFETIME: u64 = 60;
const USED_FOR: u64 = 30;
/// Grants and servers whose fields are remembered. Forgetting one costs a signature.
const MAX_REMEMBERED: usize = 10_000;

type Fields = Arc<[(HeaderName, Option<HeaderValue>)]>;

/// Makes the fields.
pub struct IdentityFields {
    core: Arc<Core>,
    /// The field of the assertion, and the key that signs it.
    assertion: Option<(HeaderName, Arc<AssertionKey>)>,
    /// JSON pointers into the claims, and the field for each.
    mapping: Vec<(String, HeaderName)>,
    made: Mutex<BoundedMap<(GrantId, String), Made>>,
}

struct Made {
    principal: Principal,
    at: Timestamp,
    fields: Fields,
}

/// The key that signs assertions. It can be replaced.
pub struct AssertionKey(RwLock<Arc<SigningKey>>);

impl AssertionKey {
    /// Signs with this key.
    pub fn new(key: SigningKey) -> AssertionKey {
        AssertionKey(RwLock::new(Arc::new(key)))
    }

    /// The key that signs now.
    pub fn now(&self) -> Arc<SigningKey> {
        self.0.read().unpoisoned().clone()
    }

    /// Signs with another key from now on.
    pub fn replace(&self, key: SigningKey) {
        *self.0.write().unpoisoned() = Arc::new(key);
    }
}

impl IdentityFields {
    /// Makes these fields.
    pub fn new(
        core: Arc<Core>,
        assertion: Option<(HeaderName, Arc<AssertionKey>)>,
        mapping: Vec<(String, HeaderName)>,
    ) -> IdentityFields {
        IdentityFields { core, assertion, mapping, made: Mutex::new(BoundedMap::new(MAX_REMEMBERED)) }
    }

    /// The fields for a request of this principal to this server.
    pub fn of(&self, principal: &Principal, resource: &ProtectedResource) -> Fields {
        let (key, now) = ((principal.grant.clone(), resource.name.clone()), self.core.now());
        if let Some(made) = self.made.lock().unpoisoned().get(&key)
            && now.saturating_sub(made.at) < USED_FOR
            && made.principal == *principal
        {
            return made.fields.clone();
        }
        let fields = self.make(principal, resource, now);
        let made = Made { principal: principal.clone(), at: now, fields: fields.clone() };
        self.made.lock().unpoisoned().insert(key, made);
        fields
    }

    /// Forgets what was made, after the key was replaced.
    pub fn forget(&self) {
        *self.made.lock().unpoisoned() = BoundedMap::new(MAX_REMEMBERED);
    }

    fn make(&self, principal: &Principal, resource: &ProtectedResource, now: Timestamp) -> Fields {
        let claims = Value::Object(claims(principal));
        let mapped = self.mapping.iter().map(|(pointer, name)| {
            let value = claims.pointer(pointer).or_else(|| principal.person.as_ref()?.profile().mapped.get(pointer));
            (name.clone(), value.and_then(text_of))
        });
        let mut fields: Vec<_> = mapped.collect();
        if let Some((name, key)) = &self.assertion {
            let mut claims = claims.clone();
            claims["iss"] = self.core.keys.issuer().into();
            claims["aud"] = resource.url().as_str().into();
            claims["iat"] = now.into();
            claims["exp"] = (now + LIFETIME).into();
            claims["jti"] = random_name().into();
            let value = key.now().sign(TYPE, &claims).ok().and_then(|text| HeaderValue::try_from(text).ok());
            fields.push((name.clone(), value));
        }
        fields.into()
    }
}

/// What is known of the principal.
fn claims(principal: &Principal) -> Map<String, Value> {
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| drop(claims.insert(name.into(), value));
    put("sub", principal.user.as_str().into());
    put("client_id", principal.client.as_str().into());
    if let Some(email) = &principal.email {
        put("email", email.as_str().into());
        put("email_verified", true.into());
    }
    let local = principal.user.as_str().strip_prefix("htpasswd:").map(String::from);
    let profile = principal.person.as_ref().map(|person| person.profile());
    if let Some(name) = profile.and_then(|profile| profile.id.clone()).or(local) {
        put("preferred_username", name.into());
    }
    if let Some(person) = &principal.person {
        put("provider", person.name().into());
        if let Some(name) = &person.profile().name {
            put("name", name.as_str().into());
        }
        if !person.profile().groups.is_empty() {
            put("groups", json!(person.profile().groups));
        }
    }
    claims
}

/// A claim as a field: a text as it is, anything else as JSON, percent-encoded where it has to be.
fn text_of(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    HeaderValue::try_from(encode_identity(&text)).ok()
}
