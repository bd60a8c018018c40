//! Every option of sigbit/mcp-auth-proxy, and what becomes of it here. docs/migrating.md is made from this table.

/// How a value is written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    /// `true` or `1`; everything else means no.
    Switch,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// It means the same.
    Same,
    /// It means the same but for what the text says, which stands in the documents.
    #[cfg_attr(not(test), allow(dead_code, reason = "docs/migrating.md is made of it, by a test"))]
    Differs(&'static str),
    /// The same; the text is for everybody who has set it, so it is printed as well.
    Told(&'static str),
    /// It does not exist. The text says why, and what to do instead.
    Gone(&'static str),
    /// It does not exist, and somebody has to decide what takes its place.
    Lost(&'static str),
}

/// An option of that program.
#[derive(Debug)]
pub(super) struct Setting {
    /// Absent if it is set in the environment only.
    pub(super) flag: Option<&'static str>,
    pub(super) env: &'static str,
    pub(super) form: Form,
    pub(super) is_secret: bool,
    pub(super) fate: Fate,
}

const fn text(flag: &'static str, env: &'static str, fate: Fate) -> Setting {
    Setting { flag: Some(flag), env, form: Form::Text, is_secret: false, fate }
}

const fn secret(flag: &'static str, env: &'static str, fate: Fate) -> Setting {
    Setting { flag: Some(flag), env, form: Form::Text, is_secret: true, fate }
}

const fn switch(flag: &'static str, env: &'static str, fate: Fate) -> Setting {
    Setting { flag: Some(flag), env, form: Form::Switch, is_secret: false, fate }
}

use Fate::{Differs, Gone, Lost, Same, Told};

const NO_DATABASE: &str = "there is no database: the state is a file in the data directory, and one process uses it. Clients register and people sign in once more";
const RULES: &str = "one rule that fits is enough, as there; but a provider without any rule is refused here, where it let everybody in";
const HALF: &str = "id without secret is an error here, and was ignored there";

/// All of them, in the order of its documentation.
pub(super) static OPTIONS: &[Setting] = &[
    text(
        "listen",
        "LISTEN",
        Differs(
            "for an external URL on this machine, the default is to listen on this machine only, where it was all addresses",
        ),
    ),
    text("tls-listen", "TLS_LISTEN", Same),
    text(
        "external-url",
        "EXTERNAL_URL",
        Told("the issuer has no slash at its end here, so clients register and people sign in once more"),
    ),
    text(
        "data-path",
        "DATA_PATH",
        Differs(
            "the same directory can be used: its secret stays in use, its database and certificates are neither read nor changed",
        ),
    ),
    text("repository-backend", "REPOSITORY_BACKEND", Differs("only local is known")),
    secret("repository-dsn", "REPOSITORY_DSN", Gone(NO_DATABASE)),
    switch("no-auto-tls", "NO_AUTO_TLS", Same),
    text("tls-host", "TLS_HOST", Same),
    text("tls-directory-url", "TLS_DIRECTORY_URL", Same),
    switch("tls-accept-tos", "TLS_ACCEPT_TOS", Same),
    text("tls-cert-file", "TLS_CERT_FILE", Same),
    text("tls-key-file", "TLS_KEY_FILE", Same),
    secret(
        "password",
        "PASSWORD",
        Differs("people see who asks before they type it, and wrong ones are answered with growing delays"),
    ),
    secret("password-hash", "PASSWORD_HASH", Same),
    switch(
        "no-provider-auto-select",
        "NO_PROVIDER_AUTO_SELECT",
        Differs("the page that asks for consent is shown in either case"),
    ),
    text("google-client-id", "GOOGLE_CLIENT_ID", Differs(HALF)),
    secret("google-client-secret", "GOOGLE_CLIENT_SECRET", Same),
    text("google-allowed-users", "GOOGLE_ALLOWED_USERS", Differs(RULES)),
    text(
        "google-allowed-workspaces",
        "GOOGLE_ALLOWED_WORKSPACES",
        Differs("the domain comes from the signed ID token"),
    ),
    text("github-url", "GITHUB_URL", Same),
    text("github-api-url", "GITHUB_API_URL", Same),
    text("github-client-id", "GITHUB_CLIENT_ID", Differs(HALF)),
    secret("github-client-secret", "GITHUB_CLIENT_SECRET", Same),
    text("github-allowed-users", "GITHUB_ALLOWED_USERS", Differs(RULES)),
    text(
        "github-allowed-orgs",
        "GITHUB_ALLOWED_ORGS",
        Differs("only active memberships count, on every page of the list"),
    ),
    text(
        "oidc-configuration-url",
        "OIDC_CONFIGURATION_URL",
        Differs("the ID token is verified, so the provider must sign with RS256 or ES256"),
    ),
    text("oidc-client-id", "OIDC_CLIENT_ID", Differs(HALF)),
    secret("oidc-client-secret", "OIDC_CLIENT_SECRET", Same),
    text("oidc-scopes", "OIDC_SCOPES", Same),
    text(
        "oidc-user-id-field",
        "OIDC_USER_ID_FIELD",
        Told(
            "an e-mail address counts only if the provider says that it is verified (OIDC_ASSUME_EMAIL_VERIFIED=1 if it never says so)",
        ),
    ),
    text("oidc-provider-name", "OIDC_PROVIDER_NAME", Same),
    text("oidc-allowed-users", "OIDC_ALLOWED_USERS", Differs(RULES)),
    text("oidc-allowed-users-glob", "OIDC_ALLOWED_USERS_GLOB", Same),
    text("oidc-allowed-attributes", "OIDC_ALLOWED_ATTRIBUTES", Same),
    text(
        "oidc-allowed-attributes-glob",
        "OIDC_ALLOWED_ATTRIBUTES_GLOB",
        Lost("values are compared as they are: list them in OIDC_ALLOWED_ATTRIBUTES"),
    ),
    secret("proxy-bearer-token", "PROXY_BEARER_TOKEN", Same),
    switch(
        "proxy-forward-authorization",
        "PROXY_FORWARD_AUTHORIZATION",
        Lost(
            "a client's token is for this proxy alone. IDENTITY_ASSERTION=Authorization gives the MCP server a signed token that says who the user is",
        ),
    ),
    secret(
        "proxy-headers",
        "PROXY_HEADERS",
        Told("they replace fields of the same name that the client sends, where they were added to them"),
    ),
    text(
        "header-mapping",
        "HEADER_MAPPING",
        Told(
            "claims of every way to sign in can be named, also with a password; lists are JSON, where they were joined by commas",
        ),
    ),
    text("header-mapping-base", "HEADER_MAPPING_BASE", Lost("pointers start at the claims themselves")),
    switch("http-streaming-only", "HTTP_STREAMING_ONLY", Same),
    text("trusted-proxies", "TRUSTED_PROXIES", Differs("single addresses work as well")),
    Setting { flag: None, env: "MODE", form: Form::Text, is_secret: false, fate: Same },
    Setting { flag: None, env: "AUTH_HMAC_SECRET", form: Form::Text, is_secret: true, fate: Same },
    Setting {
        flag: None,
        env: "JWT_PRIVATE_KEY",
        form: Form::Text,
        is_secret: true,
        fate: Gone("tokens are signed with keys that are derived from AUTH_HMAC_SECRET"),
    },
    // Of its first versions.
    text("proxy-url", "PROXY_URL", Differs("the URL of the MCP server stands on the command line")),
    secret(
        "global-secret",
        "GLOBAL_SECRET",
        Gone("its successor is AUTH_HMAC_SECRET, which both programs make themselves if it is not set"),
    ),
];

/// Short flags.
pub(super) const SHORT: [(char, &str); 3] = [('e', "external-url"), ('d', "data-path"), ('H', "tls-host")];

/// The option with this variable.
pub(super) fn by_variable(name: &str) -> Option<&'static Setting> {
    OPTIONS.iter().find(|option| option.env == name)
}

/// The option with this flag, without dashes.
pub(super) fn by_flag(name: &str) -> Option<&'static Setting> {
    OPTIONS.iter().find(|option| option.flag == Some(name))
}
