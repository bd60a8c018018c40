//! The list of all flags, in the order in which help prints them.

use super::flag::{Flag, Section};
use super::values::{count, count_or_none, duration, escaped_list, list, rates, size, switch};
use crate::observe::log::LogFormat;

/// The defaults of a [`Flag`]; each entry of the list overrides what differs.
const BASE: Flag = Flag {
    long: None,
    short: None,
    env: "",
    value: None,
    default: "",
    section: Section::Main,
    secret: false,
    from_file: false,
    is_reloaded: false,
    help: "",
    more: "",
    set: |_, _| Ok(()),
};

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("'{text}' is not one of text, json")),
    }
}

/// All options.
pub const FLAGS: &[Flag] = &[
    Flag {
        long: Some("listen"),
        env: "LISTEN",
        value: Some("ADDRESS"),
        help: "Address and port to listen on; an empty address means IPv6 and IPv4",
        more: "Default: if --external-url is on this machine, such as http://localhost:8080, its port on 127.0.0.1, for this machine only; otherwise :80. The container images set :80.",
        set: |s, v| {
            s.listen = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("servers"),
        env: "SERVERS",
        is_reloaded: true,
        value: Some("FILE"),
        help: "Publish all MCP servers of a file (mcp.json), each at /NAME/mcp, instead of one on the command line",
        more: "The file is that of Claude, Cursor, VS Code, Windsurf or Gemini CLI, as it is; docs/servers.md has its keys. It runs commands, so nobody but root and the user of the proxy may be able to write it. SIGHUP reads it again.",
        set: |s, v| {
            s.servers = Some(not_empty(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("external-url"),
        short: Some('e'),
        env: "EXTERNAL_URL",
        value: Some("URL"),
        default: "http://localhost",
        help: "The URL under which clients reach this proxy: scheme, host and port only",
        more: "It is the issuer and the audience of every token. Tokens made under another external URL are refused.",
        set: |s, v| {
            s.external_url = v.into();
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("data-path"),
        short: Some('d'),
        env: "DATA_PATH",
        value: Some("DIR"),
        default: "./data",
        help: "Directory for the signing secret and the state; created with mode 0700 if missing",
        more: "One process at a time uses it. A directory that others can read is refused.",
        set: |s, v| {
            s.data_path = not_empty(v)?;
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("branding-name"),
        env: "BRANDING_NAME",
        value: Some("NAME"),
        help: "What pages call this server, instead of its host name",
        set: |s, v| {
            s.branding_name = Some(not_empty(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("branding-logo"),
        env: "BRANDING_LOGO",
        value: Some("FILE"),
        help: "A picture for the top of each page: SVG or PNG, at most 64KiB",
        set: |s, v| {
            s.branding_logo = Some(not_empty(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("proxy-url"),
        env: "PROXY_URL",
        value: Some("URL"),
        help: "The upstream URL, for older configurations; a URL or a command on the command line wins",
        set: |s, v| {
            s.upstream = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("repository-backend"),
        env: "REPOSITORY_BACKEND",
        value: Some("local"),
        default: "local",
        help: "Where the state is stored; only local is supported, so configurations that name a database are refused",
        set: |_, v| match v {
            "local" => Ok(()),
            _ => Err(format!("'{v}' is not offered: the state is one file in --data-path (DATA_PATH); leave this out")),
        },
        ..BASE
    },
    Flag {
        long: Some("drain-timeout"),
        env: "DRAIN_TIMEOUT",
        value: Some("DURATION"),
        default: "30s",
        help: "How long requests may take to finish after SIGTERM or SIGINT",
        more: "A second signal ends the process at once.",
        set: |s, v| duration(v).map(|d| s.drain_timeout = d),
        ..BASE
    },
    Flag {
        long: Some("tls-listen"),
        env: "TLS_LISTEN",
        value: Some("ADDRESS"),
        section: Section::Tls,
        help: "Address and port for https, if this program does TLS itself",
        more: "Default: if --external-url is on this machine, its port, for this machine only; otherwise :443. --listen then answers the authority's challenges, and redirects everybody else to https.",
        set: |s, v| {
            s.tls_listen = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("auto-tls"),
        env: "AUTO_TLS",
        default: "false",
        section: Section::Tls,
        help: "Obtain and renew a certificate (ACME) also for a host without a public name",
        more: "Not needed for an https --external-url with a public name. Name a private authority with --tls-directory-url.",
        set: |s, v| switch(v).map(|b| s.auto_tls = b),
        ..BASE
    },
    Flag {
        long: Some("no-auto-tls"),
        env: "NO_AUTO_TLS",
        default: "false",
        section: Section::Tls,
        help: "Obtain no certificate: a reverse proxy in front does https, and this program serves plain http",
        set: |s, v| switch(v).map(|b| s.no_auto_tls = b),
        ..BASE
    },
    Flag {
        long: Some("tls-host"),
        short: Some('H'),
        env: "TLS_HOST",
        value: Some("NAME"),
        section: Section::Tls,
        help: "The name to obtain a certificate for; default: the host of --external-url",
        set: |s, v| {
            s.tls_host = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("tls-accept-tos"),
        env: "TLS_ACCEPT_TOS",
        default: "false",
        section: Section::Tls,
        help: "Accept the terms of service of the authority that issues the certificate",
        more: "For Let's Encrypt they are at https://letsencrypt.org/repository/.",
        set: |s, v| switch(v).map(|b| s.tls_accept_tos = b),
        ..BASE
    },
    Flag {
        long: Some("tls-directory-url"),
        env: "TLS_DIRECTORY_URL",
        value: Some("URL"),
        default: "https://acme-v02.api.letsencrypt.org/directory",
        section: Section::Tls,
        help: "ACME directory of the authority; Let's Encrypt's staging directory is https://acme-staging-v02.api.letsencrypt.org/directory",
        set: |s, v| {
            s.tls_directory_url = v.into();
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("tls-cert-file"),
        env: "TLS_CERT_FILE",
        value: Some("FILE"),
        section: Section::Tls,
        help: "Certificate chain (PEM) to use instead of obtaining one; needs --tls-key-file",
        more: "Both files are read again when they change; if the new pair can't be used, the old one stays in use, and the log says so.",
        set: |s, v| {
            s.tls_cert_file = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("tls-key-file"),
        env: "TLS_KEY_FILE",
        value: Some("FILE"),
        section: Section::Tls,
        help: "Private key (PEM) of --tls-cert-file",
        set: |s, v| {
            s.tls_key_file = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("acme-email"),
        env: "ACME_EMAIL",
        value: Some("EMAIL"),
        section: Section::Tls,
        help: "E-mail address for the authority's messages about the account",
        set: |s, v| {
            s.acme_email = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("acme-eab-kid"),
        env: "ACME_EAB_KID",
        value: Some("ID"),
        section: Section::Tls,
        help: "Key id of an account at the authority, if it requires one (external account binding)",
        set: |s, v| {
            s.acme_eab_kid = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("acme-eab-hmac-key"),
        env: "ACME_EAB_HMAC_KEY",
        value: Some("BASE64"),
        section: Section::Tls,
        secret: true,
        help: "HMAC key that belongs to --acme-eab-kid",
        set: |s, v| {
            s.acme_eab_hmac_key = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("acme-ca-file"),
        env: "ACME_CA_FILE",
        value: Some("FILE"),
        section: Section::Tls,
        help: "Certificates (PEM) of authorities to trust for the ACME directory, besides the public ones",
        set: |s, v| {
            s.acme_ca_file = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("password"),
        env: "PASSWORD",
        is_reloaded: true,
        value: Some("PASSWORD"),
        section: Section::SignIn,
        secret: true,
        help: "The password to sign in with; at most 72 bytes",
        more: "Other users of the machine can see a command line: prefer PASSWORD_FILE or --password-hash. \
               When --password-hash is set as well, either password signs in.",
        set: |s, v| {
            s.password = Some(not_empty(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("password-hash"),
        env: "PASSWORD_HASH",
        is_reloaded: true,
        value: Some("HASH"),
        section: Section::SignIn,
        secret: true,
        help: "A bcrypt hash of the password, from the hash-password command",
        set: |s, v| {
            s.password_hash = Some(not_empty(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("htpasswd-file"),
        env: "HTPASSWD_FILE",
        is_reloaded: true,
        value: Some("FILE"),
        section: Section::SignIn,
        help: "A file with a name and a bcrypt hash in each line, for several users without a provider",
        more: "Lines are those of hash-password --user NAME, or of htpasswd -B -C 12. Each name is a user of its own, htpasswd:NAME. SIGHUP reads the file again: who is taken out of it, or gets another password, is signed out everywhere.",
        set: |s, v| {
            s.htpasswd_file = Some(not_empty(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("htgroup-file"),
        env: "HTGROUP_FILE",
        is_reloaded: true,
        value: Some("FILE"),
        section: Section::SignIn,
        help: "Groups of the users of --htpasswd-file, as 'group: name name' in each line",
        more: "The rules of a server in --servers (SERVERS) can name them. SIGHUP reads the file again.",
        set: |s, v| {
            s.htgroup_file = Some(not_empty(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("password-queue"),
        env: "PASSWORD_QUEUE",
        value: Some("COUNT"),
        default: "32",
        section: Section::SignIn,
        help: "How many sign-ins may wait for a password check (one runs per core); more get 503",
        set: |s, v| count(v).map(|n| s.password_queue = n),
        ..BASE
    },
    Flag {
        long: Some("google-client-id"),
        env: "GOOGLE_CLIENT_ID",
        value: Some("ID"),
        section: Section::Providers,
        help: "Client id of a Google OAuth client of type Web application; its secret is needed, too",
        more: "Redirect URI to enter at Google: {EXTERNAL_URL}/.auth/google/callback. docs/providers.md lists every step, for the other providers, too.",
        set: |s, v| {
            s.google_client_id = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("google-client-secret"),
        env: "GOOGLE_CLIENT_SECRET",
        value: Some("SECRET"),
        section: Section::Providers,
        secret: true,
        help: "Client secret of the Google OAuth client",
        set: |s, v| {
            s.google_client_secret = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("google-allowed-users"),
        env: "GOOGLE_ALLOWED_USERS",
        value: Some("EMAIL,…"),
        section: Section::Providers,
        from_file: true,
        is_reloaded: true,
        help: "E-mail addresses that may sign in with Google",
        set: |s, v| {
            s.google_allowed_users = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("google-allowed-workspaces"),
        env: "GOOGLE_ALLOWED_WORKSPACES",
        value: Some("DOMAIN,…"),
        section: Section::Providers,
        from_file: true,
        is_reloaded: true,
        help: "Google Workspace organisations (their primary domains) whose members may sign in",
        set: |s, v| {
            s.google_allowed_workspaces = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("google-configuration-url"),
        env: "GOOGLE_CONFIGURATION_URL",
        value: Some("URL"),
        default: "https://accounts.google.com/.well-known/openid-configuration",
        section: Section::Providers,
        help: "Google's discovery document",
        set: |s, v| {
            s.google_configuration_url = v.into();
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("github-client-id"),
        env: "GITHUB_CLIENT_ID",
        value: Some("ID"),
        section: Section::Providers,
        help: "Client id of a GitHub App or OAuth App; its secret is needed, too",
        more: "Callback URL to enter at GitHub: {EXTERNAL_URL}/.auth/github/callback.",
        set: |s, v| {
            s.github_client_id = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("github-client-secret"),
        env: "GITHUB_CLIENT_SECRET",
        value: Some("SECRET"),
        section: Section::Providers,
        secret: true,
        help: "Client secret of the GitHub App or OAuth App",
        set: |s, v| {
            s.github_client_secret = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("github-allowed-users"),
        env: "GITHUB_ALLOWED_USERS",
        value: Some("LOGIN,…"),
        section: Section::Providers,
        from_file: true,
        is_reloaded: true,
        help: "GitHub logins that may sign in",
        set: |s, v| {
            s.github_allowed_users = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("github-allowed-orgs"),
        env: "GITHUB_ALLOWED_ORGS",
        value: Some("ORG[:TEAM],…"),
        section: Section::Providers,
        from_file: true,
        is_reloaded: true,
        help: "GitHub organisations, or teams in them (by slug), whose active members may sign in",
        set: |s, v| {
            s.github_allowed_orgs = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("github-url"),
        env: "GITHUB_URL",
        value: Some("URL"),
        default: "https://github.com",
        section: Section::Providers,
        help: "The URL at which users sign in to GitHub; for GitHub Enterprise",
        set: |s, v| {
            s.github_url = v.into();
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("github-api-url"),
        env: "GITHUB_API_URL",
        value: Some("URL"),
        section: Section::Providers,
        help: "GitHub's API",
        more: "Default: https://api.github.com, or, with another --github-url, that URL followed by /api/v3.",
        set: |s, v| {
            s.github_api_url = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-configuration-url"),
        env: "OIDC_CONFIGURATION_URL",
        value: Some("URL"),
        section: Section::Providers,
        help: "Discovery document of an OpenID Connect provider: Keycloak, Entra ID, Okta, Auth0, Authentik and others",
        more: "Redirect URI to enter there: {EXTERNAL_URL}/.auth/oidc/callback. Client id and secret are needed, too.",
        set: |s, v| {
            s.oidc_configuration_url = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-client-id"),
        env: "OIDC_CLIENT_ID",
        value: Some("ID"),
        section: Section::Providers,
        help: "Client id at the OpenID Connect provider",
        set: |s, v| {
            s.oidc_client_id = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-client-secret"),
        env: "OIDC_CLIENT_SECRET",
        value: Some("SECRET"),
        section: Section::Providers,
        secret: true,
        help: "Client secret at the OpenID Connect provider",
        set: |s, v| {
            s.oidc_client_secret = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-scopes"),
        env: "OIDC_SCOPES",
        value: Some("SCOPE,…"),
        default: "openid,profile,email",
        section: Section::Providers,
        help: "Scopes to ask the provider for",
        more: "Add offline_access if the provider requires it for a refresh token: then the provider is asked again at each refresh, and users need not sign in again. Without openid, the user is known from the userinfo endpoint alone.",
        set: |s, v| {
            s.oidc_scopes = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-provider-name"),
        env: "OIDC_PROVIDER_NAME",
        value: Some("NAME"),
        default: "OIDC",
        section: Section::Providers,
        help: "What the button on the sign-in page calls the provider",
        set: |s, v| {
            s.oidc_provider_name = v.into();
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-user-id-field"),
        env: "OIDC_USER_ID_FIELD",
        value: Some("POINTER"),
        default: "/email",
        section: Section::Providers,
        help: "The claim that allow rules compare, as a JSON pointer",
        more: "An e-mail address counts only if the provider says that it is verified, and is compared without case; other claims are compared exactly.",
        set: |s, v| {
            s.oidc_user_id_field = v.into();
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-allowed-users"),
        env: "OIDC_ALLOWED_USERS",
        value: Some("ID,…"),
        section: Section::Providers,
        from_file: true,
        is_reloaded: true,
        help: "Values of that claim that may sign in",
        set: |s, v| {
            s.oidc_allowed_users = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-allowed-users-glob"),
        env: "OIDC_ALLOWED_USERS_GLOB",
        value: Some("PATTERN,…"),
        section: Section::Providers,
        from_file: true,
        is_reloaded: true,
        help: "Patterns for that claim, such as *@example.com",
        more: "* matches any characters, ? one, [a-z] and [!a-z] one of a set, {a\\,b} either; write \\, for a comma within a pattern.",
        set: |s, v| escaped_list(v).map(|l| s.oidc_allowed_users_glob = l),
        ..BASE
    },
    Flag {
        long: Some("oidc-allowed-groups"),
        env: "OIDC_ALLOWED_GROUPS",
        value: Some("GROUP,…"),
        section: Section::Providers,
        from_file: true,
        is_reloaded: true,
        help: "Groups whose members may sign in; group ids for Entra ID",
        set: |s, v| {
            s.oidc_allowed_groups = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-groups-field"),
        env: "OIDC_GROUPS_FIELD",
        value: Some("POINTER"),
        default: "/groups",
        section: Section::Providers,
        help: "The claim with the groups (a string or a list), as a JSON pointer",
        set: |s, v| {
            s.oidc_groups_field = v.into();
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-allowed-attributes"),
        env: "OIDC_ALLOWED_ATTRIBUTES",
        value: Some("POINTER=VALUE,…"),
        section: Section::Providers,
        from_file: true,
        is_reloaded: true,
        help: "Claims and values whose holders may sign in, such as /roles=mcp-user",
        set: |s, v| {
            s.oidc_allowed_attributes = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-allowed-tenants"),
        env: "OIDC_ALLOWED_TENANTS",
        value: Some("ID,…"),
        section: Section::Providers,
        help: "Tenants whose users may sign in, if the provider serves many (Entra ID with common or organizations)",
        set: |s, v| {
            s.oidc_allowed_tenants = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-issuer"),
        env: "OIDC_ISSUER",
        value: Some("URL"),
        section: Section::Providers,
        help: "The issuer that the discovery document names, if it does not match the document's URL",
        more: "Needed for Entra ID by a domain name, and for a provider that the proxy reaches at another address than its users do. Without it, a document that names another issuer is refused.",
        set: |s, v| {
            s.oidc_issuer = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("oidc-assume-email-verified"),
        env: "OIDC_ASSUME_EMAIL_VERIFIED",
        default: "false",
        section: Section::Providers,
        help: "Treat e-mail addresses as verified if the provider does not say whether they are (it sends no email_verified)",
        more: "Only for a provider whose users can't choose their address freely. An address that the provider says is not verified still does not count, and a provider of many tenants always has to say it.",
        set: |s, v| switch(v).map(|b| s.oidc_assume_email_verified = b),
        ..BASE
    },
    Flag {
        long: Some("allow-any-user"),
        env: "ALLOW_ANY_USER",
        is_reloaded: true,
        default: "false",
        section: Section::Providers,
        help: "Let everybody in who can sign in at a provider that has no allow rule",
        more: "With Google or GitHub, that is everybody on earth.",
        set: |s, v| switch(v).map(|b| s.allow_any_user = b),
        ..BASE
    },
    Flag {
        long: Some("no-provider-auto-select"),
        env: "NO_PROVIDER_AUTO_SELECT",
        default: "false",
        section: Section::Providers,
        help: "Show the sign-in page even if there is only one provider and no password",
        set: |s, v| switch(v).map(|b| s.no_provider_auto_select = b),
        ..BASE
    },
    Flag {
        long: Some("identity-lifetime"),
        env: "IDENTITY_LIFETIME",
        value: Some("DURATION"),
        default: "1d",
        section: Section::Providers,
        help: "How long a provider's last answer about a user counts if it can't be asked again",
        more: "A provider that gives a lasting refresh token is asked at each refresh of a client's tokens. With others, the user has to sign in again after this time. If the provider can't be reached for this long, clients have to wait.",
        set: |s, v| duration(v).map(|d| s.identity_lifetime = d),
        ..BASE
    },
    Flag {
        long: Some("registration"),
        env: "REGISTRATION",
        value: Some("open|allowlist|off"),
        default: "open",
        section: Section::Clients,
        help: "Which clients may register themselves (RFC 7591)",
        more: "open: every client; a person still has to allow it. allowlist: those whose redirect URIs are all among --registration-redirect-uris. off: none; clients with a metadata document, and those of 'mcp-auth-proxy clients add', still connect.",
        set: |s, v| match v {
            "open" | "allowlist" | "off" => {
                s.registration = v.into();
                Ok(())
            }
            _ => Err(format!("'{v}' is not one of open, allowlist, off")),
        },
        ..BASE
    },
    Flag {
        long: Some("registration-redirect-uris"),
        env: "REGISTRATION_REDIRECT_URIS",
        value: Some("PATTERN,…"),
        section: Section::Clients,
        help: "Redirect URIs that clients may register with --registration allowlist",
        more: "Such as https://claude.ai/api/mcp/auth_callback, https://*.example.com/* or http://localhost/*. A * stands at the end of the path, or as *. before a host; the port of a loopback host is not compared.",
        set: |s, v| {
            s.registration_redirect_uris = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("no-cimd"),
        env: "NO_CIMD",
        default: "false",
        section: Section::Clients,
        help: "Accept no client ID metadata documents",
        more: "Claude, ChatGPT and other clients prefer such a document to registering. The proxy fetches it over https from public addresses only.",
        set: |s, v| switch(v).map(|b| s.no_cimd = b),
        ..BASE
    },
    Flag {
        long: Some("cimd-allowed-domains"),
        env: "CIMD_ALLOWED_DOMAINS",
        value: Some("DOMAIN,…"),
        section: Section::Clients,
        help: "Domains that client ID metadata documents may be at; default: all",
        more: "A domain stands for itself and all names below it.",
        set: |s, v| {
            s.cimd_allowed_domains = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("trusted-issuers"),
        env: "TRUSTED_ISSUERS",
        is_reloaded: true,
        value: Some("FILE"),
        section: Section::Clients,
        help: "Issuers whose signed assertions about people or workloads are accepted (JSON)",
        more: "For enterprise-managed authorization (ID-JAG), GitHub Actions, Kubernetes and SPIFFE: see docs/clients.md. SIGHUP reads it again.",
        set: |s, v| {
            s.trusted_issuers = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("api-keys"),
        env: "API_KEYS",
        default: "false",
        section: Section::Clients,
        help: "Accept API keys, for scripts that know no OAuth",
        more: "Made with 'mcp-auth-proxy keys add'.",
        set: |s, v| switch(v).map(|b| s.api_keys = b),
        ..BASE
    },
    Flag {
        long: Some("proxy-bearer-token"),
        env: "PROXY_BEARER_TOKEN",
        value: Some("TOKEN"),
        section: Section::Upstream,
        secret: true,
        help: "Bearer token to send to the upstream server",
        set: |s, v| {
            s.proxy_bearer_token = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("proxy-headers"),
        env: "PROXY_HEADERS",
        value: Some("NAME:VALUE,…"),
        section: Section::Upstream,
        secret: true,
        help: "Header fields to add to each upstream request; write \\, for a comma in a value",
        set: |s, v| proxy_headers(v).map(|h| s.proxy_headers = h),
        ..BASE
    },
    Flag {
        long: Some("header-mapping"),
        env: "HEADER_MAPPING",
        value: Some("CLAIM:HEADER,…"),
        section: Section::Upstream,
        help: "Claims of the user to send upstream, each in a header field of its own",
        more: "A claim is a JSON pointer, as in /email:X-Forwarded-Email,/preferred_username:X-Remote-User. Claims of an OpenID Connect provider can be named, and sub, email (verified addresses only), name, groups, preferred_username, provider and client_id of every user. The client's own field of that name is taken out. Values are percent-encoded, lists are JSON.",
        set: |s, v| header_mapping(v).map(|m| s.header_mapping = m),
        ..BASE
    },
    Flag {
        long: Some("identity-assertion"),
        env: "IDENTITY_ASSERTION",
        default: "false",
        section: Section::Upstream,
        help: "Send upstream a signed JWT that says who the user is",
        more: "Signed with ES256; the keys are at /.well-known/jwks.json. It is good for a minute, and its audience is the server's URL. For servers at a URL.",
        set: |s, v| switch(v).map(|b| s.identity_assertion = b),
        ..BASE
    },
    Flag {
        long: Some("identity-assertion-header"),
        env: "IDENTITY_ASSERTION_HEADER",
        value: Some("NAME"),
        default: "X-Forwarded-Assertion",
        section: Section::Upstream,
        help: "The header field of --identity-assertion",
        set: |s, v| {
            s.identity_assertion_header = v.into();
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("http-streaming-only"),
        env: "HTTP_STREAMING_ONLY",
        default: "false",
        section: Section::Upstream,
        help: "Answer 405 to GET requests for an event stream",
        more: "For upstream servers that keep a stream open without ever using it, or that fail on GET.",
        set: |s, v| switch(v).map(|b| s.http_streaming_only = b),
        ..BASE
    },
    Flag {
        long: Some("ca-file"),
        env: "CA_FILE",
        value: Some("FILE"),
        section: Section::Upstream,
        help: "Certificates (PEM) of authorities to trust, besides the public ones",
        more: "For an upstream server or an OpenID Connect provider whose certificate is from a private authority, or self-signed.",
        set: |s, v| {
            s.ca_file = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("upstream-insecure-skip-verify"),
        env: "UPSTREAM_INSECURE_SKIP_VERIFY",
        default: "false",
        section: Section::Upstream,
        help: "Accept any certificate of the upstream server: anybody in between can read and change everything",
        more: "Better: give its certificate, or that of its authority, with --ca-file.",
        set: |s, v| switch(v).map(|b| s.upstream_insecure_skip_verify = b),
        ..BASE
    },
    Flag {
        long: Some("no-upstream-check"),
        env: "NO_UPSTREAM_CHECK",
        default: "false",
        section: Section::Upstream,
        help: "Don't check at the start that the server answers and speaks MCP",
        more: "The check sends one initialize request, and the log says what is wrong; the proxy starts either way. A stdio server is started for it, unless it is shared or --stdio-spare is 0.",
        set: |s, v| switch(v).map(|b| s.no_upstream_check = b),
        ..BASE
    },
    Flag {
        long: Some("upstream-connect-timeout"),
        env: "UPSTREAM_CONNECT_TIMEOUT",
        value: Some("DURATION"),
        default: "10s",
        section: Section::Upstream,
        help: "How long opening a connection to the upstream server may take; then 504",
        set: |s, v| duration(v).map(|d| s.upstream_connect_timeout = d),
        ..BASE
    },
    Flag {
        long: Some("upstream-response-timeout"),
        env: "UPSTREAM_RESPONSE_TIMEOUT",
        value: Some("DURATION"),
        default: "10m",
        section: Section::Upstream,
        help: "How long the upstream server may take to begin an answer; then 504",
        more: "An answer that has begun, such as an event stream, may take as long as it likes.",
        set: |s, v| duration(v).map(|d| s.upstream_response_timeout = d),
        ..BASE
    },
    Flag {
        long: Some("stdio-mode"),
        env: "STDIO_MODE",
        value: Some("session|shared"),
        default: "session",
        section: Section::Stdio,
        help: "One process for each session, or one that all sessions share",
        more: "A shared process suits servers that need much memory and have no secrets between clients. Its requests to a \
               client (sampling, elicitation, roots) are refused and its log messages dropped: they belong to no client.",
        set: |s, v| {
            s.stdio_shared = match v {
                "session" => false,
                "shared" => true,
                _ => return Err(format!("'{v}' is not one of session, shared")),
            };
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("stdio-user"),
        env: "STDIO_USER",
        value: Some("USER"),
        section: Section::Stdio,
        help: "Run the server as another user of the system: a name, a user id, or user and group id as in 1000:1000",
        more: "Default: if the proxy runs as root, the user mcp-server, if the system has one. Otherwise the server runs as \
               the proxy's own user, and can read the data directory with the key that signs tokens; so it does if the \
               user is root. Changing the user needs root.",
        set: |s, v| {
            s.stdio_user = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("stdio-spare"),
        env: "STDIO_SPARE",
        value: Some("COUNT"),
        default: "1",
        section: Section::Stdio,
        help: "Processes kept ready for the next session of a user and client who have had one before; 0 for none",
        set: |s, v| count_or_none(v).map(|n| s.stdio_spare = n),
        ..BASE
    },
    Flag {
        long: Some("stdio-max-children"),
        env: "STDIO_MAX_CHILDREN",
        value: Some("COUNT"),
        default: "16",
        section: Section::Stdio,
        help: "Most processes at one time; beyond that, the one that has been idle the longest is ended",
        more: "Its session continues with a new process when it is used again.",
        set: |s, v| count(v).map(|n| s.stdio_max_children = n),
        ..BASE
    },
    Flag {
        long: Some("stdio-idle-timeout"),
        env: "STDIO_IDLE_TIMEOUT",
        value: Some("DURATION"),
        default: "5m",
        section: Section::Stdio,
        help: "How long a session may be unused, with no client listening, before its process is ended",
        set: |s, v| duration(v).map(|d| s.stdio_idle_timeout = d),
        ..BASE
    },
    Flag {
        long: Some("stdio-max-sessions-per-user"),
        env: "STDIO_MAX_SESSIONS_PER_USER",
        value: Some("COUNT"),
        default: "32",
        section: Section::Stdio,
        help: "Most sessions of one user, including those without a process; beyond that, the one that has been idle the longest ends",
        set: |s, v| count(v).map(|n| s.stdio_max_sessions_per_user = n),
        ..BASE
    },
    Flag {
        long: Some("stdio-session-lifetime"),
        env: "STDIO_SESSION_LIFETIME",
        value: Some("DURATION"),
        default: "1d",
        section: Section::Stdio,
        help: "How long an unused session can still be continued",
        set: |s, v| duration(v).map(|d| s.stdio_session_lifetime = d),
        ..BASE
    },
    Flag {
        long: Some("stdio-memory"),
        env: "STDIO_MEMORY",
        value: Some("SIZE"),
        section: Section::Stdio,
        help: "Most memory for the data of each of the server's processes (RLIMIT_DATA)",
        set: |s, v| size(v).map(|n| s.stdio_memory = Some(n)),
        ..BASE
    },
    Flag {
        long: Some("stdio-nice"),
        env: "STDIO_NICE",
        value: Some("NUMBER"),
        section: Section::Stdio,
        help: "Niceness of the server's processes, from 0 to 19",
        set: |s, v| match v.parse() {
            Ok(n @ 0..=19) => {
                s.stdio_nice = Some(n);
                Ok(())
            }
            _ => Err(format!("'{v}' is not a number from 0 to 19")),
        },
        ..BASE
    },
    Flag {
        long: Some("stdio-buffer"),
        env: "STDIO_BUFFER",
        value: Some("SIZE"),
        default: "32MiB",
        section: Section::Stdio,
        help: "Longest message of the server; also how much of a session is kept for a client that is slow or away",
        set: |s, v| size(v).map(|n| s.stdio_buffer = n),
        ..BASE
    },
    Flag {
        long: Some("trusted-proxies"),
        env: "TRUSTED_PROXIES",
        value: Some("ADDRESS|CIDR,…"),
        section: Section::Trust,
        help: "Reverse proxies in front of this one, whose X-Forwarded-For is trusted",
        more: "The client is the rightmost entry that is not a trusted proxy.",
        set: |s, v| {
            s.trusted_proxies = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("allowed-origins"),
        env: "ALLOWED_ORIGINS",
        value: Some("ORIGIN,…"),
        section: Section::Trust,
        help: "Web origins whose pages may call the MCP endpoint, besides this one and loopback",
        set: |s, v| {
            s.allowed_origins = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("allowed-hosts"),
        env: "ALLOWED_HOSTS",
        value: Some("HOST,…"),
        section: Section::Trust,
        help: "Host names that requests may have, besides the external URL's and loopback",
        more: "A request for another host gets 421, which defeats DNS rebinding.",
        set: |s, v| {
            s.allowed_hosts = list(v);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("access-token-lifetime"),
        env: "ACCESS_TOKEN_LIFETIME",
        value: Some("DURATION"),
        default: "1h",
        section: Section::Lifetimes,
        help: "Lifetime of access tokens",
        more: "Clients replace them by themselves, so nobody notices. What was ended here is refused at once, however long its tokens last; a change at a provider is noticed when a token is replaced. Machines and trusted issuers can have a lifetime of their own.",
        set: |s, v| duration(v).map(|d| s.access_token_lifetime = d),
        ..BASE
    },
    Flag {
        long: Some("refresh-token-idle-lifetime"),
        env: "REFRESH_TOKEN_IDLE_LIFETIME",
        value: Some("DURATION"),
        default: "30d",
        section: Section::Lifetimes,
        help: "How long a client may be unused before it must be authorized again",
        more: "Its user then signs in and allows it once more. Each use starts this time anew.",
        set: |s, v| duration(v).map(|d| s.refresh_token_idle_lifetime = d),
        ..BASE
    },
    Flag {
        long: Some("refresh-token-lifetime"),
        env: "REFRESH_TOKEN_LIFETIME",
        value: Some("DURATION"),
        default: "180d",
        section: Section::Lifetimes,
        help: "How long an authorization lasts at most",
        more: "Even a client in daily use must then be allowed again. Providers do not decide this: tokens are ours, and outlive a browser's session there.",
        set: |s, v| duration(v).map(|d| s.refresh_token_lifetime = d),
        ..BASE
    },
    Flag {
        long: Some("session-lifetime"),
        env: "SESSION_LIFETIME",
        value: Some("DURATION"),
        default: "12h",
        section: Section::Lifetimes,
        help: "How long a browser stays signed in",
        more: "It counts from the sign-in. Until then another client needs one click and no password. Signing out here ends it, signing out at the provider does not; applications keep their access either way.",
        set: |s, v| duration(v).map(|d| s.session_lifetime = d),
        ..BASE
    },
    Flag {
        long: Some("consent-lifetime"),
        env: "CONSENT_LIFETIME",
        value: Some("DURATION"),
        default: "30d",
        section: Section::Lifetimes,
        help: "How long a consent is remembered for a client at an https redirect URI",
        more: "Until then the same user, client and servers need no click while the browser is signed in. Others are asked each time: any program of a computer can use their names. Disconnecting an application forgets it.",
        set: |s, v| duration(v).map(|d| s.consent_lifetime = d),
        ..BASE
    },
    Flag {
        long: Some("max-connections"),
        env: "MAX_CONNECTIONS",
        value: Some("COUNT"),
        default: "10000",
        section: Section::Limits,
        help: "Most connections at one time; beyond that, the one that has been idle the longest is closed",
        set: |s, v| count(v).map(|n| s.max_connections = n),
        ..BASE
    },
    Flag {
        long: Some("max-connections-per-address"),
        env: "MAX_CONNECTIONS_PER_ADDRESS",
        value: Some("COUNT"),
        default: "256",
        section: Section::Limits,
        help: "Most connections at one time from one address (IPv6: /64), except trusted proxies; beyond that, its longest idle one is closed",
        set: |s, v| count(v).map(|n| s.max_connections_per_address = n),
        ..BASE
    },
    Flag {
        long: Some("rate-limit"),
        env: "RATE_LIMIT",
        is_reloaded: true,
        value: Some("[user=|client=|address=]COUNT[:BURST],…"),
        section: Section::Limits,
        help: "Most requests to MCP servers in a minute; more get 429. A number alone is for each user",
        more: "BURST of them may come at once: as many as in a minute unless set. A cloud client such as Claude sends the requests of all its users from a few addresses.",
        set: |s, v| rates(v).map(|rates| s.rate_limit = rates),
        ..BASE
    },
    Flag {
        long: Some("tool-rate-limit"),
        env: "TOOL_RATE_LIMIT",
        is_reloaded: true,
        value: Some("[TOOL=]COUNT[:BURST],…"),
        section: Section::Limits,
        help: "Most calls of one tool by one user in a minute; more get 429, which tells the model how long to wait",
        more: "With a name, for tools of that name. Batches and bodies over 64 KiB count as one tool by themselves.",
        set: |s, v| rates(v).map(|rates| s.tool_rate_limit = rates),
        ..BASE
    },
    Flag {
        long: Some("max-requests"),
        env: "MAX_REQUESTS",
        value: Some("COUNT"),
        default: "256",
        section: Section::Limits,
        help: "Most upstream requests in flight, without open streams; more get 503",
        set: |s, v| count(v).map(|n| s.max_requests = n),
        ..BASE
    },
    Flag {
        long: Some("max-requests-per-user"),
        env: "MAX_REQUESTS_PER_USER",
        is_reloaded: true,
        value: Some("COUNT"),
        default: "64",
        section: Section::Limits,
        help: "Most upstream requests in flight for one user, without open streams; more get 429",
        set: |s, v| count(v).map(|n| s.max_requests_per_user = n),
        ..BASE
    },
    Flag {
        long: Some("max-streams"),
        env: "MAX_STREAMS",
        is_reloaded: true,
        value: Some("COUNT"),
        default: "4096",
        section: Section::Limits,
        help: "Most event streams open at one time; more get 503",
        more: "A request that accepts an event stream counts before it is passed on.",
        set: |s, v| count(v).map(|n| s.max_streams = n),
        ..BASE
    },
    Flag {
        long: Some("max-streams-per-user"),
        env: "MAX_STREAMS_PER_USER",
        is_reloaded: true,
        value: Some("COUNT"),
        default: "1024",
        section: Section::Limits,
        help: "Most event streams open at one time for one user; more get 429",
        set: |s, v| count(v).map(|n| s.max_streams_per_user = n),
        ..BASE
    },
    Flag {
        long: Some("max-head-size"),
        env: "MAX_HEAD_SIZE",
        value: Some("SIZE"),
        default: "16KiB",
        section: Section::Limits,
        help: "Largest request line and header fields together; larger ones get 431",
        set: |s, v| size(v).map(|n| s.max_head_size = n),
        ..BASE
    },
    Flag {
        long: Some("max-head-fields"),
        env: "MAX_HEAD_FIELDS",
        value: Some("COUNT"),
        default: "100",
        section: Section::Limits,
        help: "Most header fields of a request; more get 431",
        set: |s, v| count(v).map(|n| s.max_head_fields = n),
        ..BASE
    },
    Flag {
        long: Some("head-timeout"),
        env: "HEAD_TIMEOUT",
        value: Some("DURATION"),
        default: "10s",
        section: Section::Limits,
        help: "Longest time from a request's first byte to the end of its head; then 408",
        set: |s, v| duration(v).map(|d| s.head_timeout = d),
        ..BASE
    },
    Flag {
        long: Some("handshake-timeout"),
        env: "HANDSHAKE_TIMEOUT",
        value: Some("DURATION"),
        default: "10s",
        section: Section::Limits,
        help: "Longest time from connecting to the end of the TLS handshake",
        set: |s, v| duration(v).map(|d| s.handshake_timeout = d),
        ..BASE
    },
    Flag {
        long: Some("idle-timeout"),
        env: "IDLE_TIMEOUT",
        value: Some("DURATION"),
        default: "75s",
        section: Section::Limits,
        help: "How long a connection may wait between requests",
        set: |s, v| duration(v).map(|d| s.idle_timeout = d),
        ..BASE
    },
    Flag {
        long: Some("max-body-size"),
        env: "MAX_BODY_SIZE",
        value: Some("SIZE"),
        default: "16MiB",
        section: Section::Limits,
        help: "Largest request body; larger ones get 413",
        set: |s, v| size(v).map(|n| s.max_body_size = n),
        ..BASE
    },
    Flag {
        long: Some("body-timeout"),
        env: "BODY_TIMEOUT",
        value: Some("DURATION"),
        default: "30s",
        section: Section::Limits,
        help: "Longest pause within a request body, and while a client reads an answer",
        set: |s, v| duration(v).map(|d| s.body_timeout = d),
        ..BASE
    },
    Flag {
        long: Some("metrics-listen"),
        env: "METRICS_LISTEN",
        value: Some("ADDRESS"),
        section: Section::Monitoring,
        help: "Serve /metrics for Prometheus, /healthz and /readyz at this address; :9100 is for this machine only",
        more: "It asks for no password, so it belongs in a network of your own. docs/monitoring.md lists the metrics.",
        set: |s, v| {
            s.metrics_listen = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("access-log"),
        env: "ACCESS_LOG",
        value: Some("stderr|stdout|FILE"),
        section: Section::Monitoring,
        help: "Write a line for each request when it ends: who, which server and tool, status, bytes, duration",
        more: "docs/monitoring.md lists the fields. A file is opened again on SIGHUP, so that it can be rotated.",
        set: |s, v| {
            s.access_log = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("access-log-format"),
        env: "ACCESS_LOG_FORMAT",
        value: Some("text|json"),
        section: Section::Monitoring,
        help: "Format of its lines; that of the log unless set",
        set: |s, v| {
            s.access_log_format = Some(log_format(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("audit-log"),
        env: "AUDIT_LOG",
        value: Some("stderr|stdout|FILE"),
        section: Section::Monitoring,
        help: "Write a JSON line for each request to an MCP server and for each event such as a sign-in, a consent or a refusal",
        more: "docs/monitoring.md and docs/events.md list the fields. No token, code or password is in it.",
        set: |s, v| {
            s.audit_log = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        long: Some("audit-arguments"),
        env: "AUDIT_ARGUMENTS",
        default: "false",
        section: Section::Monitoring,
        help: "Write down what tools are called with, too: whatever secrets are in it are then in the audit log",
        set: |s, v| switch(v).map(|b| s.audit_arguments = b),
        ..BASE
    },
    Flag {
        long: Some("audit-required"),
        env: "AUDIT_REQUIRED",
        default: "false",
        section: Section::Monitoring,
        help: "Answer no request while the audit log can't be written",
        set: |s, v| switch(v).map(|b| s.audit_required = b),
        ..BASE
    },
    Flag {
        long: Some("env-file"),
        env: "ENV_FILE",
        value: Some("FILE"),
        section: Section::Main,
        help: "Read more variables from this file, one NAME=value in a line; a reload reads it again",
        more: "Flags, and variables of the environment itself, come first. The file can have passwords in it: let nobody else read it. It is refused if others may write it.",
        set: |s, v| {
            s.env_file = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        env: "MODE",
        value: Some("debug|production"),
        default: "production",
        section: Section::Process,
        help: "debug logs at level debug",
        set: |s, v| match v {
            "debug" => {
                s.debug = true;
                Ok(())
            }
            "production" => {
                s.debug = false;
                Ok(())
            }
            _ => Err(format!("'{v}' is not one of debug, production")),
        },
        ..BASE
    },
    Flag {
        env: "LOG_LEVEL",
        is_reloaded: true,
        value: Some("error|warn|info|debug|trace"),
        section: Section::Process,
        help: "How much to log; info unless MODE says otherwise",
        set: |s, v| match v {
            "error" | "warn" | "info" | "debug" | "trace" => {
                s.log_level = v.parse().ok();
                Ok(())
            }
            _ => Err(format!("'{v}' is not one of error, warn, info, debug, trace")),
        },
        ..BASE
    },
    Flag {
        env: "LOG_FORMAT",
        value: Some("text|json"),
        section: Section::Process,
        help: "text for people (the default on a terminal), json for machines (elsewhere)",
        set: |s, v| {
            s.log_format = Some(log_format(v)?);
            Ok(())
        },
        ..BASE
    },
    Flag {
        env: "AUTH_HMAC_SECRET",
        value: Some("BASE64"),
        section: Section::Process,
        secret: true,
        help: "32 bytes in base64 from which all signing keys are derived; default: <data-path>/secret, made at the first start",
        more: "`head -c 32 /dev/urandom | base64` makes one. Sharing it is not enough for replicas: registrations and authorizations are in --data-path, which one process uses at a time.",
        set: |s, v| {
            s.auth_hmac_secret = Some(v.into());
            Ok(())
        },
        ..BASE
    },
    Flag {
        env: "AUTH_HMAC_PREVIOUS_SECRETS",
        value: Some("BASE64,…"),
        section: Section::Process,
        secret: true,
        help: "Earlier values of AUTH_HMAC_SECRET that still verify, so that keys rotate without a logout",
        set: |s, v| {
            s.auth_hmac_previous_secrets = list(v);
            Ok(())
        },
        ..BASE
    },
];

/// Refuses an empty value, which often comes from a shell variable that is not set.
fn not_empty(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("it is empty: type one, or leave the option out; is a variable of the shell not set?".into()),
        false => Ok(text.into()),
    }
}

/// `POINTER:NAME,…`.
fn header_mapping(text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |item: &String| match item.rsplit_once(':') {
        Some((claim, name)) if claim.starts_with('/') && !name.trim().is_empty() => {
            Ok((claim.to_string(), name.trim().to_string()))
        }
        _ => Err(format!("'{item}' is not a JSON pointer and a header name, such as /email:X-Forwarded-Email")),
    };
    list(text).iter().map(pair).collect()
}

/// `Name:Value,Name:Value` with `\,` for a comma and `\\` for a backslash within a value.
fn proxy_headers(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(&next @ (',' | '\\'))) => {
                chars.next();
                items.last_mut().expect("never empty").push(next);
            }
            (',', _) => items.push(String::new()),
            _ => items.last_mut().expect("never empty").push(c),
        }
    }
    let items = items.iter().map(|i| i.trim()).filter(|i| !i.is_empty());
    items
        .map(|item| match item.split_once(':') {
            Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_string(), value.trim().to_string())),
            // The item may be a secret, so the message does not show it.
            _ => Err("an item is not of the form Name:Value (write \\, for a comma in a value)".into()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_headers_split_at_unescaped_commas() {
        let pairs = |text: &str| proxy_headers(text).unwrap();
        let owned = |items: &[(&str, &str)]| -> Vec<(String, String)> {
            items.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
        };
        assert_eq!(pairs("A:1,B: 2"), owned(&[("A", "1"), ("B", "2")]));
        assert_eq!(pairs(r"A:1\,2,B:c:d"), owned(&[("A", "1,2"), ("B", "c:d")]));
        assert_eq!(pairs(r"A:a\\,B:x\y"), owned(&[("A", r"a\"), ("B", r"x\y")]));
        assert_eq!(pairs(""), owned(&[]));
        let error = proxy_headers("secretwithoutcolon").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
