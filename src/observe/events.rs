//! Events that matter for security. From each follow a line of the log, a line of the audit log, and the metrics.
//!
//! What an event is called, what the log says and which fields it has is in one table, from which `docs/events.md` is
//! made. Names and types never change; new ones may be added.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, OnceLock};

use log::Level;
use log::kv::{Key, Source, VisitSource};

use super::quota::Quota;
use crate::lock::Unpoisoned;

/// Lines of one kind that can be written at once, and in each second, if strangers can cause them.
const BURST: u32 = 50;
const PER_SECOND: u32 = 5;

/// Makes the kinds, each with its definition.
macro_rules! kinds {
    ($($kind:ident = $name:literal $level:ident $(($limited:ident))? $message:literal [$($field:ident)*];)*) => {
        /// What has happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each has its message")]
        pub enum Kind { $($kind,)* }

        /// All kinds.
        pub const KINDS: &[Kind] = &[$(Kind::$kind,)*];

        impl Kind {
            /// Its definition.
            pub const fn definition(self) -> Definition {
                match self {
                    $(Kind::$kind => Definition {
                        name: $name,
                        level: Level::$level,
                        is_limited: kinds!(@limited $($limited)?),
                        message: $message,
                        fields: &[$(stringify!($field),)*],
                    },)*
                }
            }
        }
    };
    (@limited) => { false };
    (@limited limited) => { true };
}

/// What is known of a kind of event.
pub struct Definition {
    /// Its name in the audit log, in metrics, and in the log if that is JSON.
    pub name: &'static str,
    /// Its level in the log.
    pub level: Level,
    /// Can strangers cause any number? Then lines are left out, and counted.
    pub is_limited: bool,
    /// What the log says.
    pub message: &'static str,
    /// The fields that it may have.
    pub fields: &'static [&'static str],
}

kinds! {
    Started = "started" Debug "the proxy has started" [version];
    Stopped = "stopped" Info "stopped" [];

    SignedIn = "signed_in" Info "signed in" [request address user client client_name provider id rule];
    SignedInAfterFailures = "signed_in_after_failures" Warn "somebody has signed in after many wrong passwords from the same place: is it the user?" [request address user client client_name failures];
    SignInFailed = "sign_in_failed" Warn "a sign-in failed" [request address user client reason];
    SignInThrottled = "sign_in_throttled" Warn (limited) "a sign-in was refused without a look at it, since there were too many from this place" [request address user client seconds reason];
    SignInQueueFull = "sign_in_queue_full" Warn (limited) "a sign-in was refused: the password queue is full (--password-queue, PASSWORD_QUEUE)" [request address];
    SignInRefused = "sign_in_refused" Warn "a sign-in was refused: no allow rule fits" [request address user provider id];
    SignInAborted = "sign_in_aborted" Info (limited) "the provider returned an error instead of a sign-in" [request address provider error];
    ProviderFailed = "provider_failed" Warn "a sign-in at a provider failed" [request address provider reason];
    CallbackRefused = "callback_refused" Info (limited) "a provider's callback was refused" [request address provider reason];
    FormRefused = "form_refused" Info (limited) "a form was refused" [request address reason origin];
    SignedOut = "signed_out" Info "signed out" [request address user];
    BrowsersSignedOut = "browsers_signed_out" Info "the user signed out other browsers" [request address user sessions];

    ClientRegistered = "client_registered" Info "a client registered" [request address client client_name];
    RegistrationRefused = "registration_refused" Warn (limited) "a registration was refused" [request address error reason];
    RegistrationsRemoved = "registrations_removed" Warn "there were too many registrations; unused ones were removed, first from the network or user with the most" [address clients];
    RegistrationReplaced = "registration_replaced" Warn "a user has used too many registrations; the oldest that is not in use was removed" [user client grants];

    AuthorizationRefused = "authorization_refused" Info (limited) "an authorization request was refused" [request address client error reason];
    AccessNotGiven = "access_not_given" Info "access was not given" [request address user client client_name reason];
    ConsentGiven = "consent_given" Info "the user allowed access to the client" [request address user client client_name grant];
    ConsentDenied = "consent_denied" Info "the user denied access to the client" [request address client client_name];
    TokensIssued = "tokens_issued" Info "tokens were issued" [request address user client client_name grant grant_type issuer];
    TokensRefreshed = "tokens_refreshed" Info "tokens were refreshed" [request address user client client_name grant how];
    TokenRequestRefused = "token_request_refused" Info (limited) "a token request was refused" [request address client grant_type error reason];
    RefreshTokenReused = "refresh_token_reused" Warn "an old refresh token was used again; its grant was revoked" [request address user client client_name grant];
    CodeReused = "code_reused" Warn "an authorization code was used twice; its grant was revoked" [request address client client_name];
    RefreshPutOff = "refresh_put_off" Warn "a refresh was put off: the provider can't be asked, and its last answer is too old (--identity-lifetime, IDENTITY_LIFETIME)" [user grant reason];
    TokenRevoked = "token_revoked" Info "a client revoked its authorization" [request address client client_name grant];
    RevocationRefused = "revocation_refused" Warn "a client wanted to revoke another client's token" [request address client client_name];

    BearerTokenRefused = "bearer_token_refused" Debug (limited) "a bearer token was refused" [request address server reason];
    KeyUsedElsewhere = "key_used_elsewhere" Warn "an API key is used from an address that it was not used from in the last day" [request address previous user server];
    GrantEnded = "grant_ended" Warn "a user may not enter any more: the authorization has ended" [user grant streams reason];
    ServerWithdrawn = "server_withdrawn" Warn "a user may not use a server any more: it was taken out of the authorization" [user grant server streams];
    StreamsCut = "streams_cut" Warn "streams were cut" [user grant server streams reason];
    RateLimited = "rate_limited" Warn (limited) "a request was refused: there were too many before it (--rate-limit, RATE_LIMIT; --tool-rate-limit, TOOL_RATE_LIMIT)" [request address user client client_name server limit tool most seconds];
    ServerDown = "server_down" Warn "the MCP server does not answer any more" [server reason];
    ServerUp = "server_up" Info "the MCP server answers again" [server];
    HostRefused = "host_refused" Info (limited) "a request for another host was refused: it must be that of --external-url (EXTERNAL_URL), or named in --allowed-hosts (ALLOWED_HOSTS)" [request address host];
    OriginRefused = "origin_refused" Info (limited) "a request of another web origin was refused (--allowed-origins, ALLOWED_ORIGINS)" [request address origin];

    AccessDisconnected = "access_disconnected" Info "the user disconnected applications" [request address user client grants];
    OperatorAddedClient = "operator_added_client" Info "the operator registered a client" [client];
    OperatorRemovedClient = "operator_removed_client" Info "the operator removed a client" [client grants];
    OperatorAddedKey = "operator_added_key" Info "the operator made an API key" [user];
    OperatorRevokedKey = "operator_revoked_key" Info "the operator revoked an API key" [user streams];
    OperatorRevokedGrants = "operator_revoked_grants" Info "the operator revoked grants" [grants];
    OperatorSignedOut = "operator_signed_out" Info "the operator signed a user out" [user sessions grants];
    OperatorBackup = "operator_backup" Info "the operator made a back-up" [bytes];
    KeysReplaced = "keys_replaced" Info "all keys were replaced; what was signed with the previous ones stays valid" [];
    KeysCompromised = "keys_compromised" Warn "all keys were replaced because they leaked: everybody has to sign in again" [grants];
    ControlRefused = "control_refused" Warn (limited) "a process of another user connected to the control socket; it was refused" [];
    Reloaded = "reloaded" Info "the settings were read again" [changed unchanged];
    ReloadFailed = "reload_failed" Error "nothing has changed, since something can't be read again" [error];
    ServersPublished = "servers_published" Info "the servers of the servers file are published" [servers added changed removed];
}

/// The fields that events have: name, whether it is a number, and meaning.
pub const FIELDS: &[(&str, bool, &str)] = &[
    ("request", false, "the request's id, as in `X-Request-Id`"),
    ("address", false, "the client's address, as trusted reverse proxies report it"),
    ("user", false, "the user's id; `key:NAME` for an API key"),
    ("client", false, "the client's id; not proved if the event is a refusal"),
    ("client_name", false, "the name that the client has chosen"),
    ("grant", false, "the id of the authorization"),
    ("grant_type", false, "the way to get tokens, such as `authorization_code`"),
    ("server", false, "the server's name in the servers file"),
    ("provider", false, "the identity provider"),
    ("issuer", false, "the trusted issuer's name"),
    ("id", false, "the user's id or e-mail address at the provider"),
    ("rule", false, "the kind of allow rule that fits"),
    ("how", false, "`rotated`, `repeated` or `replaced`"),
    ("error", false, "an error code or message"),
    ("reason", false, "why, in words"),
    ("limit", false, "which limit: `address`, `user`, `client` or `tool`"),
    ("tool", false, "the tool"),
    ("host", false, "the host that the request names"),
    ("origin", false, "the web origin that the request names"),
    ("version", false, "the program's version"),
    ("added", false, "names, separated by commas"),
    ("changed", false, "names, separated by commas"),
    ("unchanged", false, "settings that have changed and need a restart, separated by commas"),
    ("removed", false, "names, separated by commas"),
    ("previous", false, "the address that it was used from last"),
    ("seconds", true, "how long to wait"),
    ("failures", true, "wrong passwords before the right one, from this address or this browser"),
    ("most", true, "how many there may be in a minute"),
    ("streams", true, "event streams that were cut"),
    ("grants", true, "authorizations that ended"),
    ("sessions", true, "browsers that were signed out"),
    ("clients", true, "registrations that were removed"),
    ("servers", true, "how many servers there are now"),
    ("bytes", true, "its size"),
    ("omitted", true, "events of this kind that were left out before this one, since there were too many"),
];

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A text that is not empty.
    Text(String),
    /// A number.
    Number(u64),
}

/// An event that matters for security.
#[derive(Clone, Debug)]
#[must_use = "nobody learns of an event that is not told"]
pub struct Event {
    /// What has happened.
    pub kind: Kind,
    /// Its fields, in order.
    pub fields: Vec<(&'static str, Field)>,
}

/// Learns of events.
pub trait Subscriber: Send + Sync {
    /// Something has happened. It is called for events that no line is written about, too.
    fn happened(&self, kind: Kind, event: &Event);

    /// A line may be written about the event.
    fn told(&self, event: &Event);
}

static SUBSCRIBERS: OnceLock<Vec<Box<dyn Subscriber>>> = OnceLock::new();

/// Says who learns of events, besides the log. Only the first call in a process has an effect.
pub fn subscribe(subscribers: Vec<Box<dyn Subscriber>>) {
    let _ = SUBSCRIBERS.set(subscribers);
}

impl Event {
    /// An event without fields.
    pub fn new(kind: Kind) -> Event {
        Event { kind, fields: Vec::new() }
    }

    /// The request that caused it.
    pub fn request(self, id: &dyn Display, address: IpAddr) -> Event {
        self.with("request", id).with("address", address)
    }

    /// Adds a text. An empty one is left out.
    pub fn with(mut self, name: &'static str, value: impl Display) -> Event {
        let text = value.to_string();
        if !text.is_empty() {
            self.fields.push((name, Field::Text(text)));
        }
        self
    }

    /// Adds a number.
    pub fn count(mut self, name: &'static str, value: impl TryInto<u64>) -> Event {
        self.fields.push((name, Field::Number(value.try_into().unwrap_or(u64::MAX))));
        self
    }

    /// Writes it to the log, and tells the subscribers.
    pub fn tell(mut self) {
        let definition = self.kind.definition();
        debug_assert!(self.is_as_defined(&definition), "{}: {:?}", definition.name, self.fields);
        let subscribers = SUBSCRIBERS.get().map(Vec::as_slice).unwrap_or_default();
        subscribers.iter().for_each(|subscriber| subscriber.happened(self.kind, &self));
        if definition.is_limited {
            static QUOTAS: LazyLock<Mutex<HashMap<Kind, Quota>>> = LazyLock::new(Mutex::default);
            let mut quotas = QUOTAS.lock().unpoisoned();
            let quota = quotas.entry(self.kind).or_insert_with(|| Quota::new(BURST, PER_SECOND));
            match quota.take() {
                None => return,
                Some(0) => {}
                Some(omitted) => self.fields.push(("omitted", Field::Number(omitted))),
            }
        }
        self.log(&definition);
        subscribers.iter().for_each(|subscriber| subscriber.told(&self));
    }

    fn log(&self, definition: &Definition) {
        if definition.level <= log::max_level() {
            let mut record = log::Record::builder();
            record.level(definition.level).target(module_path!()).key_values(self);
            log::logger().log(&record.args(format_args!("{}", definition.message)).build());
        }
    }

    fn is_as_defined(&self, definition: &Definition) -> bool {
        let type_of = |name: &str| FIELDS.iter().find(|(known, ..)| *known == name).map(|(_, is_number, _)| *is_number);
        self.fields.iter().all(|(name, value)| {
            definition.fields.contains(name) && type_of(name) == Some(matches!(value, Field::Number(_)))
        })
    }
}

/// The name of the kind is the first pair.
impl Source for Event {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        visitor.visit_pair(Key::from_str("event"), self.kind.definition().name.into())?;
        for (name, value) in &self.fields {
            let value = match value {
                Field::Text(text) => text.as_str().into(),
                Field::Number(number) => (*number).into(),
            };
            visitor.visit_pair(Key::from_str(name), value)?;
        }
        Ok(())
    }
}

/// The table of all events and their fields, for `docs/events.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Events\n\nEach event that matters for security is a line of the log, a line of the audit log (`--audit-log`, see\n\
         [monitoring](monitoring.md)) and counts in `mcp_auth_proxy_events_total`. Names, and the types of fields, never change; new ones may be\n\
         added. A line has those of its fields that are known. Events with a `*` can be caused by anyone, any number of times: of each kind of them,\n\
         50 are written at once and 5 in each second, and the next line says how many were left out (`omitted`). Metrics count all of them.\n\n\
         | event | level | message | fields |\n|---|---|---|---|\n",
    );
    for definition in KINDS.iter().map(|kind| kind.definition()) {
        let fields: Vec<_> = definition.fields.iter().map(|field| format!("`{field}`")).collect();
        let star = if definition.is_limited { " *" } else { "" };
        let level = definition.level.as_str().to_lowercase();
        out += &format!("| `{}`{star} | {level} | {} | {} |\n", definition.name, definition.message, fields.join(", "));
    }
    out += "\n## Fields\n\n| field | type | |\n|---|---|---|\n";
    for (name, is_number, meaning) in FIELDS {
        out += &format!("| `{name}` | {} | {meaning} |\n", if *is_number { "number" } else { "text" });
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_of_events_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == markdown(), "docs/events.md is stale: UPDATE_DOCS=1 cargo test the_table_of_events");
    }

    #[test]
    fn names_differ_and_every_field_is_defined() {
        let names: HashSet<_> = KINDS.iter().map(|kind| kind.definition().name).collect();
        assert_eq!(names.len(), KINDS.len());
        let used: HashSet<_> = KINDS.iter().flat_map(|kind| kind.definition().fields).copied().collect();
        let defined: HashSet<_> = FIELDS.iter().map(|(name, ..)| *name).filter(|name| *name != "omitted").collect();
        assert_eq!(used, defined);
    }

    #[test]
    fn a_field_that_is_not_defined_is_noticed() {
        let event = |name| Event::new(Kind::SignedIn).with(name, "x");
        let definition = Kind::SignedIn.definition();
        assert!(event("user").is_as_defined(&definition) && !event("password").is_as_defined(&definition));
        assert!(!Event::new(Kind::SignedIn).count("user", 1u64).is_as_defined(&definition), "another type");
        assert!(event("user").with("client_name", "").is_as_defined(&definition), "empty ones are left out");
    }
}
