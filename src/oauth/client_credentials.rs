//! The grant type `client_credentials` (RFC 6749 section 4.4): clients that the operator has registered and that act for
//! themselves. They are the user `client:ID`.

use super::client_auth::Authenticated;
use super::direct::{self, Direct};
use super::error::OAuthError;
use super::server::AuthorizationServer;
use crate::http::form::Form;
use crate::http::{Caller, Response};
use crate::identity::{CredentialId, User, UserId};
use crate::resource::protected::ProtectedResource;
use crate::resource_url::Resources;
use crate::store::rows::{AuthMethod, GrantType};

/// Issues an access token to the client.
pub(super) fn grant(
    server: &AuthorizationServer,
    authenticated: &Authenticated,
    form: &Form,
    resources: Option<Resources>,
    caller: Caller,
) -> Result<Response, OAuthError> {
    let Authenticated { client, how } = authenticated;
    // RFC 6749 section 4.4: confidential clients only.
    let of =
        client.preregistered.as_ref().filter(|_| client.may(GrantType::ClientCredentials) && *how != AuthMethod::None);
    let of = of.ok_or_else(not_allowed)?;
    direct::check_scope(form.get("scope"))?;
    let user = UserId::of_client(&client.id);
    let may = |resource: &ProtectedResource| {
        let is_its = of.servers.is_empty() || of.servers.contains(&resource.name);
        is_its && resource.admits(&user, None, &[])
    };
    let published = server.resources.now();
    let audience = direct::audience(&published, resources, &server.core.external.origin, &may)?;
    let lifetime = of.token_lifetime.unwrap_or(server.core.lifetimes.access_token);
    let direct = Direct {
        user: User { id: user, email: None, credential: CredentialId::of_client(&client.id) },
        client: client.id.clone(),
        client_name: client.shown_name().to_string(),
        auth_method: *how,
        audience,
        of_file: published.whole().is_none(),
        asserted: None,
        rules: None,
        lifetime,
    };
    direct::issue(server, direct, "client_credentials", caller)
}

/// RFC 6749 section 5.2.
pub(super) fn not_allowed() -> OAuthError {
    OAuthError::new("unauthorized_client", "the operator has not registered this client for this grant type")
}
