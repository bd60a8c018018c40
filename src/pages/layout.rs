//! The layout that all pages share: the frame around a body, the style sheet, and a strict content security policy.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::site::Site;
use super::words::{self, fill};
use crate::http::{RequestId, Response};
use crate::redirect_uri::RedirectUri;

const STYLE: &str = include_str!("style.css");

/// The style sheet's hash: the policy allows this one and no other.
static STYLE_HASH: LazyLock<String> = LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE)));

/// Builds a whole page. `id` is shown if the person may have to ask the operator about the request. `redirect` is the
/// redirect URI that a form on the page may lead to; it is added to `form-action`.
pub(super) fn page(
    site: &Site,
    id: Option<RequestId>,
    status: StatusCode,
    title: &str,
    redirect: Option<&RedirectUri>,
    body: Markup,
) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " · " (site.title()) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (site.header()) (body) }
                footer {
                    span { (site.external.origin) }
                    @if let Some(id) = id { span { (fill(words::REQUEST, &[("id", html! { (id) })])) } }
                    span { (words::PROTECTED_BY) }
                }
            }
        }
    };
    // Chromium applies form-action to the redirect that answers a form, too.
    let form_action = redirect.map(|r| format!(" {}", r.policy_source())).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; img-src 'self' data:; form-action 'self'{form_action}; frame-ancestors 'none'; base-uri 'none'",
        *STYLE_HASH
    );
    Response::new(status)
        .with_body("text/html; charset=utf-8", markup.into_string().into_bytes())
        .with(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))
        .with(CONTENT_SECURITY_POLICY, policy)
        .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        // Not no-referrer: with it, browsers send `Origin: null` with forms, and the origin check would refuse them.
        .with(REFERRER_POLICY, HeaderValue::from_static("same-origin"))
        .with(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
        .with(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY"))
}
