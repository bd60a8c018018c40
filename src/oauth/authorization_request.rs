//! The parameters of an authorization request (RFC 6749 section 4.1.1), without a look at the store.

use super::error::OAuthError;
use super::resource;
use super::server::AuthorizationServer;
use crate::http::form::Form;
use crate::redirect_uri::RedirectUri;
use crate::resource_url::Resources;
use crate::store::rows::Client;

/// What a request asks for, besides the client and its redirect URI.
pub(super) struct Asked {
    /// S256.
    pub(super) code_challenge: String,
    pub(super) resources: Option<Resources>,
    pub(super) prompt: Prompt,
}

/// Checks everything in a request but its client, redirect URI and `state`.
pub(super) fn asked(server: &AuthorizationServer, form: &Form) -> Result<Asked, OAuthError> {
    let core = &*server.core;
    let invalid = |text: &str| OAuthError::new("invalid_request", text);
    match form.get("response_type") {
        Some("code") => {}
        None => return Err(invalid("response_type is missing")),
        Some(_) => return Err(OAuthError::new("unsupported_response_type", "response_type must be code")),
    }
    if form.get("response_mode").is_some_and(|m| m != "query") {
        return Err(invalid("response_mode must be query"));
    }
    if form.get("request").is_some() || form.get("request_uri").is_some() {
        return Err(OAuthError::new("request_not_supported", "request objects are not supported"));
    }
    let code_challenge = code_challenge(form).map_err(invalid)?;
    let resources = resource::requested(core, form)
        .and_then(|asked| resource::to_authorize(core, &server.resources.now(), asked))?;
    let prompt = Prompt::parse(form.get("prompt").unwrap_or_default()).map_err(invalid)?;
    Ok(Asked { code_challenge, resources, prompt })
}

/// Returns the PKCE challenge (RFC 7636 section 4.3), or says what is wrong with it.
fn code_challenge(form: &Form) -> Result<String, &'static str> {
    let challenge = form.get("code_challenge").ok_or("code_challenge is missing: PKCE is required")?;
    // A missing method means `plain`, which is refused too.
    if form.get("code_challenge_method") != Some("S256") {
        return Err("code_challenge_method must be S256");
    }
    if challenge.len() != 43 || !challenge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err("code_challenge is not the base64url of a SHA-256 digest");
    }
    Ok(challenge.to_string())
}

/// What the client wants the user to be asked (OpenID Connect Core section 3.1.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) none: bool,
    pub(super) login: bool,
    pub(super) consent: bool,
    pub(super) select_account: bool,
}

impl Prompt {
    /// Parses a space-separated list. Unknown values are ignored, like unknown parameters. The error says what is
    /// wrong.
    fn parse(text: &str) -> Result<Prompt, &'static str> {
        let has = |word: &str| text.split(' ').any(|w| w == word);
        let prompt = Prompt {
            none: has("none"),
            login: has("login"),
            consent: has("consent"),
            select_account: has("select_account"),
        };
        let is_alone = text.split(' ').filter(|w| !w.is_empty()).count() == 1;
        if prompt.none && !is_alone { Err("prompt has none beside another value") } else { Ok(prompt) }
    }
}

/// Returns the requested redirect URI if the client has registered it. Without one in the request, returns the
/// registered one if it is the only one (RFC 6749 section 3.1.2.3). The flag tells whether the request had one.
pub(super) fn proven_redirect(client: &Client, requested: Option<&str>) -> Option<(RedirectUri, bool)> {
    let registered = || client.redirect_uris.iter().filter_map(|u| RedirectUri::parse(u).ok());
    match requested {
        Some(text) => {
            let uri = RedirectUri::parse(text).ok()?;
            registered().any(|r| uri.matches(&r)).then_some((uri, true))
        }
        None => {
            let mut all = registered();
            all.next().filter(|_| all.next().is_none()).map(|uri| (uri, false))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_is_a_list_of_words() {
        let parse = |text: &str| Prompt::parse(text);
        assert_eq!(parse(""), Ok(Prompt::default()));
        assert_eq!(parse("login consent"), Ok(Prompt { login: true, consent: true, ..Prompt::default() }));
        assert_eq!(parse("select_account create"), Ok(Prompt { select_account: true, ..Prompt::default() }));
        assert_eq!(parse("none"), Ok(Prompt { none: true, ..Prompt::default() }));
        assert!(parse("none login").is_err() && parse("login none").is_err());
        assert_eq!(parse("loginx"), Ok(Prompt::default()));
    }
}
