//! `POST /.idp/register`: dynamic client registration (RFC 7591).
//!
//! Anyone may register. A public client's id is derived from its metadata, so that the same client does not fill the
//! store by registering again. Registrations are rate-limited per address, per network and in total. When the table is
//! full, registrations that no user ever authorized are evicted first, from the network that has the most of them. The
//! number of registrations that one user was the first to use is limited as well.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use http::StatusCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client_checks::{MAX_NAME, UNUSED_LIFETIME, check_redirect_uris};
use super::error::{OAuthError, no_store};
use super::server::AuthorizationServer;
use crate::clock::Timestamp;
use crate::core::Core;
use crate::encoding::{base64url, digest};
use crate::http::Caller;
use crate::http::{BodyError, Request, Response};
use crate::identity::{ClientId, OFFLINE_ACCESS, SCOPE, UserId};
use crate::net::address::{network_of, wide_network_of};
use crate::observe::events::{Event, Kind};
use crate::store::StoreError;
use crate::store::rows::{AuthMethod, Client, Grant, Phase};
use crate::tokens::{random, random_name};

/// Longest registration request, in bytes.
const MAX_BODY: usize = 32 << 10;
/// How long a used registration is kept after the maximum lifetime of its newest grant, in seconds.
pub const USED_MARGIN: u64 = 30 * 86_400;
/// Maximum number of registrations. When it is reached, unused ones are evicted first.
const MAX_CLIENTS: u64 = 10_000;
/// How many registrations are evicted at once.
const EVICTED_AT_ONCE: usize = 100;
/// Maximum number of registrations that one user was the first to use. When it is reached, one of them is evicted,
/// preferably one without a live grant.
const MAX_OF_ONE_USER: usize = 256;

#[derive(Deserialize)]
struct Metadata {
    redirect_uris: Option<Vec<String>>,
    client_name: Option<String>,
    token_endpoint_auth_method: Option<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    application_type: Option<String>,
    scope: Option<String>,
}

/// Answers a registration.
pub fn handle(server: &AuthorizationServer, request: &mut Request<'_>, caller: Caller) -> Response {
    let error = match register(server, request, caller) {
        Ok(document) => return no_store(Response::json(StatusCode::CREATED, &document)),
        Err(error) => error,
    };
    let event = caller.event(Kind::RegistrationRefused).with("error", error.code);
    event.with("reason", &error.description).tell();
    match error.status {
        StatusCode::TOO_MANY_REQUESTS => error.response().with(RETRY_AFTER, 60),
        _ => error.response(),
    }
}

fn register(server: &AuthorizationServer, request: &mut Request<'_>, caller: Caller) -> Result<Value, OAuthError> {
    // RFC 7591 section 3.1 requires JSON. Any web page could send form or plain text bodies without a CORS preflight.
    let content_type = request.parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(OAuthError {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            code: "invalid_client_metadata",
            description: "the Content-Type is not application/json".into(),
        });
    }
    let body = request.body.read_all(MAX_BODY).map_err(|e| {
        let error = BodyError::of(&e).unwrap_or(BodyError::Gone);
        OAuthError { status: error.status(), code: "invalid_client_metadata", description: error.to_string() }
    })?;
    let core = &*server.core;
    let (mut client, scope) = parse(&body, core.keys.issuer(), core.now())?;
    server.clients.may_register(&client.redirect_uris)?;
    // Nothing to guess in 256 random bits, so a plain digest of them is enough.
    let secret = (client.auth_method != AuthMethod::None).then(|| base64url(random::<32>()));
    client.secret_digests = secret.iter().map(|secret| digest(secret.as_bytes())).collect();
    let client = match core.state.get::<Client>(client.id.as_str())? {
        // While half of the lifetime of an unused registration is left, registering again writes nothing and is not
        // rate-limited.
        Some(known) if known.expires_at >= core.now() + UNUSED_LIFETIME / 2 => known,
        known => store(server, client, known, caller)?,
    };
    Ok(document(&client, secret, scope))
}

/// Checks a registration request. Returns the client and the scope that it asked for.
pub fn parse(body: &[u8], issuer: &str, now: Timestamp) -> Result<(Client, Option<String>), OAuthError> {
    let bad = |text: &str| OAuthError::new("invalid_client_metadata", text);
    let metadata: Metadata = serde_json::from_slice(body)
        .map_err(|_| bad("the body is not a JSON object with client metadata (RFC 7591 section 2)"))?;

    let redirect_uris = metadata.redirect_uris.unwrap_or_default();
    let is_local = check_redirect_uris(&redirect_uris)?;
    if metadata.grant_types.is_some_and(|g| !g.is_empty() && !g.iter().any(|t| t == "authorization_code")) {
        return Err(bad("grant_types must include authorization_code"));
    }
    if metadata.response_types.is_some_and(|r| !r.is_empty() && !r.iter().any(|t| t == "code")) {
        return Err(bad("response_types must include code"));
    }
    let auth_method = match metadata.token_endpoint_auth_method.as_deref() {
        // RFC 7591 section 2: `client_secret_basic` is the default.
        None | Some("client_secret_basic") => AuthMethod::ClientSecretBasic,
        Some("client_secret_post") => AuthMethod::ClientSecretPost,
        // Replace unsupported methods by `none`, as RFC 7591 section 3.2.1 allows. PKCE protects the client.
        Some(_) => AuthMethod::None,
    };
    let application_type = match metadata.application_type.as_deref() {
        Some(known @ ("web" | "native")) => known.to_string(),
        _ => if is_local { "native" } else { "web" }.to_string(),
    };
    let name = metadata.client_name.map(|n| n.chars().take(MAX_NAME).collect::<String>());

    let id = match auth_method {
        AuthMethod::None => {
            let facts = json!([issuer, name, redirect_uris, application_type]).to_string();
            digest(facts.as_bytes())[..24].to_string()
        }
        _ => random_name(),
    };
    let client = Client {
        id: ClientId(id),
        name,
        redirect_uris,
        auth_method,
        application_type: Some(application_type),
        issued_at: now,
        used: false,
        used_by: None,
        network: None,
        secret_digests: Vec::new(),
        keys: None,
        preregistered: None,
        expires_at: now + UNUSED_LIFETIME,
    };
    Ok((client, metadata.scope))
}

fn store(
    server: &AuthorizationServer,
    client: Client,
    known: Option<Client>,
    caller: Caller,
) -> Result<Client, OAuthError> {
    let core = &*server.core;
    if let Err(whose) = server.registrations.take(caller.address) {
        return Err(OAuthError {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "temporarily_unavailable",
            description: format!("too many registrations {whose}; try again in a minute"),
        });
    }
    if known.is_none() && core.state.count::<Client>()? >= MAX_CLIENTS && !make_room(core, caller.address)? {
        return Err(StoreError("no room for registrations".into()).into());
    }
    let row = Client { network: Some(network_of(caller.address)), ..client };
    let stored = core.state.transact(move |tx| {
        let row = match tx.get::<Client>(row.id.as_str())? {
            Some(known) => Client { expires_at: known.expires_at.max(row.expires_at), ..known },
            None => row,
        };
        tx.put(row.id.as_str(), &row);
        Ok(row)
    })?;
    let event = caller.event(Kind::ClientRegistered).with("client", &stored.id);
    event.with("client_name", stored.shown_name()).tell();
    Ok(stored)
}

/// Removes expired rows and, if that is not enough, unused registrations, oldest first, each from the network that has
/// the most at that moment. If all are used, removes those without a live grant, each from the user who has the most.
/// Returns false if there was nothing to remove.
fn make_room(core: &Core, address: IpAddr) -> Result<bool, StoreError> {
    core.state.collect()?;
    if core.state.count::<Client>()? < MAX_CLIENTS {
        return Ok(true);
    }
    let (mut unused, mut used) = (HashMap::<_, Vec<_>>::new(), Vec::new());
    core.state.scan::<Client>(|_, client| match client.used {
        false => unused.entry(client.network).or_default().push((client.expires_at, client.id)),
        // Those of the operator stay.
        true if client.preregistered.is_some() => {}
        true => used.push(client),
    })?;
    let mut going = of_the_largest(unused, |network| network.map(wide_network_of), EVICTED_AT_ONCE);
    if going.is_empty() {
        let live = live_grants(core)?;
        let mut idle = HashMap::<_, Vec<_>>::new();
        for client in used.into_iter().filter(|c| !live.contains_key(&c.id)) {
            idle.entry(client.used_by).or_default().push((client.issued_at, client.id));
        }
        going = of_the_largest(idle, |_| (), EVICTED_AT_ONCE);
    }
    let removed = remove(core, going)?;
    Event::new(Kind::RegistrationsRemoved).with("address", address).count("clients", removed).tell();
    Ok(removed > 0)
}

/// Takes `count` entries, each time the oldest entry of the group that is the largest at that moment. Among equally
/// large groups, it prefers the one with the larger `family`, then the one with the oldest entry: a client that spreads
/// over many networks of a family loses entries before one that uses a single network.
fn of_the_largest<K, F, T: Ord + Clone>(groups: HashMap<K, Vec<T>>, family: impl Fn(&K) -> F, count: usize) -> Vec<T>
where
    F: Hash + Eq,
{
    let mut families = HashMap::<F, usize>::new();
    let mut groups: Vec<_> = groups
        .into_iter()
        .map(|(key, mut group)| {
            group.sort_by(|a, b| b.cmp(a));
            let family = family(&key);
            *families.entry(family).or_default() += group.len();
            (key, group)
        })
        .collect();
    let rank = |families: &HashMap<F, usize>, (key, group): &(K, Vec<T>)| {
        let oldest = group.last()?.clone();
        Some((group.len(), families.get(&family(key)).copied().unwrap_or_default(), Reverse(oldest)))
    };
    let ranked = groups.iter().enumerate().filter_map(|(at, group)| Some((rank(&families, group)?, at)));
    let mut heap: BinaryHeap<_> = ranked.collect();
    let mut taken = Vec::new();
    while taken.len() < count
        && let Some((was, at)) = heap.pop()
    {
        let Some(is) = rank(&families, &groups[at]) else { continue };
        if is == was {
            taken.extend(groups[at].1.pop());
            if let Some(members) = families.get_mut(&family(&groups[at].0)) {
                *members -= 1;
            }
        }
        // Push the group back with its current rank: the group or its family may have lost entries.
        heap.extend(rank(&families, &groups[at]).map(|rank| (rank, at)));
    }
    taken
}

fn remove(core: &Core, clients: Vec<(Timestamp, ClientId)>) -> Result<usize, StoreError> {
    core.state.remove::<Client>(clients.into_iter().map(|(_, id)| id.0).collect())
}

/// The grants of each client, without revoked ones.
fn live_grants(core: &Core) -> Result<HashMap<ClientId, Vec<Grant>>, StoreError> {
    let mut live = HashMap::<_, Vec<_>>::new();
    core.state.scan::<Grant>(|_, grant| {
        if grant.phase != Phase::Revoked {
            live.entry(grant.client.clone()).or_default().push(grant);
        }
    })?;
    Ok(live)
}

/// Makes room so that `user` can be the first to use one more client. At the limit, evicts the user's oldest
/// registration without a live grant; if there is none, the oldest that no other user uses, and revokes its grants.
pub fn make_room_for(core: &Core, user: &UserId) -> Result<(), StoreError> {
    if core.state.count::<Client>()? < MAX_OF_ONE_USER as u64 {
        return Ok(());
    }
    let mut own = Vec::new();
    core.state.scan::<Client>(|_, client| {
        if client.used_by.as_ref() == Some(user) {
            own.push((client.issued_at, client.id));
        }
    })?;
    if own.len() < MAX_OF_ONE_USER {
        return Ok(());
    }
    let live = live_grants(core)?;
    let grants = |id: &ClientId| live.get(id).map_or(&[][..], Vec::as_slice);
    let is_shared = |id: &ClientId| grants(id).iter().any(|g| g.user.id != *user);
    let first = own.into_iter().filter(|(_, id)| !is_shared(id)).min_by_key(|(at, id)| (!grants(id).is_empty(), *at));
    let Some((at, id)) = first else { return Ok(()) };
    let (ended, lifetime) = (grants(&id).to_vec(), core.lifetimes.access_token);
    let event = Event::new(Kind::RegistrationReplaced).with("user", user).with("client", &id);
    event.count("grants", ended.len()).tell();
    core.state.transact(move |tx| {
        ended.into_iter().for_each(|grant| tx.revoke(grant, lifetime));
        Ok(())
    })?;
    remove(core, vec![(at, id)]).map(drop)
}

/// The client information response (RFC 7591 section 3.2.1).
fn document(client: &Client, secret: Option<String>, scope: Option<String>) -> Value {
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| drop(document.insert(name.into(), value));
    put("client_id", client.id.as_str().into());
    put("client_id_issued_at", client.issued_at.into());
    if let Some(secret) = secret {
        put("client_secret", secret.into());
        put("client_secret_expires_at", 0.into());
    }
    if let Some(name) = &client.name {
        put("client_name", name.as_str().into());
    }
    put("redirect_uris", json!(client.redirect_uris));
    put("grant_types", json!(["authorization_code", "refresh_token"]));
    put("response_types", json!(["code"]));
    put("token_endpoint_auth_method", json!(client.auth_method));
    if let Some(kind) = &client.application_type {
        put("application_type", kind.as_str().into());
    }
    if let Some(scope) = scope {
        let known: Vec<&str> = scope.split(' ').filter(|s| [SCOPE, OFFLINE_ACCESS].contains(s)).collect();
        put("scope", if known.is_empty() { SCOPE.into() } else { known.join(" ").into() });
    }
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(body: &Value) -> Result<Client, OAuthError> {
        parse(body.to_string().as_bytes(), "https://a", 1).map(|(c, _)| c)
    }

    #[test]
    fn the_same_public_metadata_has_the_same_id() {
        let body = |name: &str| json!({"redirect_uris": ["https://a/cb"], "client_name": name, "token_endpoint_auth_method": "none"});
        assert_eq!(register(&body("x")).unwrap().id, register(&body("x")).unwrap().id);
        assert_ne!(register(&body("x")).unwrap().id, register(&body("y")).unwrap().id);
        let other = parse(body("x").to_string().as_bytes(), "https://b", 1).unwrap().0;
        assert_ne!(register(&body("x")).unwrap().id, other.id);
        let confidential = json!({"redirect_uris": ["https://a/cb"]});
        assert_ne!(register(&confidential).unwrap().id, register(&confidential).unwrap().id);
    }

    #[test]
    fn real_clients_metadata_passes() {
        let cursor = json!({
            "client_name": "Cursor", "application_type": "web", "token_endpoint_auth_method": "none",
            "redirect_uris": ["cursor://anysphere.cursor-mcp/oauth/callback", "https://www.cursor.com/agents/mcp/oauth/callback", "http://localhost:8787/callback"]
        });
        assert_eq!(register(&cursor).unwrap().application_type.as_deref(), Some("web"));
        let vscode = json!({
            "client_name": "Visual Studio Code", "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "redirect_uris": ["https://insiders.vscode.dev/redirect", "https://vscode.dev/redirect", "http://127.0.0.1/", "http://127.0.0.1:33418/"],
            "client_uri": "https://code.visualstudio.com"
        });
        assert!(register(&vscode).is_ok());
        let jwt = json!({"redirect_uris": ["https://chatgpt.com/connector_platform_oauth_redirect"], "token_endpoint_auth_method": "private_key_jwt"});
        assert_eq!(register(&jwt).unwrap().auth_method, AuthMethod::None);
    }

    #[test]
    fn refusals_have_the_codes_of_rfc_7591() {
        for (body, code) in [
            (json!({}), "invalid_redirect_uri"),
            (json!({"redirect_uris": []}), "invalid_redirect_uri"),
            (json!({"redirect_uris": ["javascript:alert(1)"]}), "invalid_redirect_uri"),
            (json!({"redirect_uris": vec!["https://a/"; 33]}), "invalid_redirect_uri"),
            (json!({"redirect_uris": "https://a/"}), "invalid_client_metadata"),
            (
                json!({"redirect_uris": ["https://a/"], "grant_types": ["client_credentials"]}),
                "invalid_client_metadata",
            ),
            (json!({"redirect_uris": ["https://a/"], "response_types": ["token"]}), "invalid_client_metadata"),
            (json!([]), "invalid_client_metadata"),
            (json!("x"), "invalid_client_metadata"),
        ] {
            assert_eq!(register(&body).unwrap_err().code, code, "{body}");
        }
        let deep = format!("{{\"redirect_uris\":{}", "[".repeat(10_000));
        assert_eq!(parse(deep.as_bytes(), "https://a", 1).unwrap_err().code, "invalid_client_metadata");
    }
}
