//! Recognises an answer that is not the MCP server's, but that of something in front of it.

use http::StatusCode;

use super::findings::{
    BLOCKED, Finding, HOST_REFUSED, REDIRECTED, REDIRECTED_KEEPING_METHOD, SERVER_DOWN, SIGN_IN_IN_FRONT,
};
use super::probe::Reply;
use super::report::excerpt;

/// Programs and services that tell who they are, by a header field, or by a text in it.
const SIGNS: [(&str, &str, &str); 16] = [
    ("cf-mitigated", "", "Cloudflare"),
    ("cf-access-domain", "", "Cloudflare Access"),
    ("ngrok-error-code", "", "ngrok"),
    ("x-vercel-mitigated", "", "Vercel"),
    ("x-azure-ref", "", "Azure Front Door"),
    ("x-amzn-waf-action", "", "AWS WAF"),
    ("x-sucuri-id", "", "Sucuri"),
    ("x-tailscale-user", "", "Tailscale"),
    ("server", "cloudflare", "Cloudflare"),
    ("server", "nginx", "nginx"),
    ("server", "caddy", "Caddy"),
    ("server", "apache", "Apache"),
    ("server", "awselb", "an AWS load balancer"),
    ("server", "envoy", "Envoy"),
    ("server", "openresty", "OpenResty"),
    ("via", "", "a proxy that names itself in Via"),
];

/// Who seems to have answered.
pub(super) fn name(reply: &Reply) -> Option<&'static str> {
    let fits = |(field, text, _): &&(&str, &str, &str)| {
        reply.fields.get(*field).is_some_and(|value| {
            text.is_empty() || value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains(text))
        })
    };
    SIGNS.iter().find(fits).map(|(.., name)| *name)
}

/// What a reply is, for a line of the report: its status, who sent it, and how it begins.
pub(super) fn described(reply: &Reply) -> String {
    let by = name(reply).map(|name| format!(" by {name}")).unwrap_or_default();
    let kind = match reply.media_type().as_str() {
        "" => String::new(),
        kind => format!(" ({kind})"),
    };
    let begins = excerpt(&reply.words());
    let begins = if begins.is_empty() { String::new() } else { format!(": {begins}") };
    format!("{}{by}{kind}{begins}", reply.status)
}

/// The finding, if the reply is one that an MCP server does not send at any step.
pub(super) fn finding(reply: &Reply) -> Option<&'static Finding> {
    let is_challenged =
        ["cf-mitigated", "x-vercel-mitigated", "x-amzn-waf-action"].iter().any(|f| reply.fields.contains_key(*f));
    let text = reply.text().to_ascii_lowercase();
    let is_robot_check = reply.is_html()
        && ["just a moment", "attention required", "captcha", "are you human", "access denied", "request blocked"]
            .iter()
            .any(|sign| text.contains(sign));
    match reply.status {
        status if status.is_redirection() => Some(redirection(reply)),
        _ if is_challenged || is_robot_check => Some(&BLOCKED),
        _ if reply.fields.contains_key("ngrok-error-code") && reply.is_html() => Some(&SERVER_DOWN),
        StatusCode::MISDIRECTED_REQUEST => Some(&HOST_REFUSED),
        status if status.is_server_error() => Some(&SERVER_DOWN),
        status if status.is_success() && reply.is_html() => Some(&SIGN_IN_IN_FRONT),
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS if reply.is_html() => Some(&BLOCKED),
        _ => None,
    }
}

fn redirection(reply: &Reply) -> &'static Finding {
    let location = reply.field("location").to_ascii_lowercase();
    let is_sign_in =
        ["login", "signin", "sign-in", "sign_in", "oauth2/start", "/authorize", "cloudflareaccess.com", "sso"]
            .iter()
            .any(|sign| location.contains(sign));
    match reply.status {
        _ if is_sign_in => &SIGN_IN_IN_FRONT,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => &REDIRECTED_KEEPING_METHOD,
        _ => &REDIRECTED,
    }
}
