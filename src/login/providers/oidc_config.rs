//! Configuration of an OpenID Connect provider.

use crate::http::client::RemoteUrl;

/// The `id_field` that means the e-mail address: allow rules ignore its case, and it counts only if it is verified.
pub const EMAIL_FIELD: &str = "/email";
/// Placeholder for the tenant in the issuer of a multi-tenant provider.
pub(super) const TENANT: &str = "{tenantid}";

/// Configuration of an OpenID Connect provider.
#[derive(Clone)]
pub struct OidcConfig {
    /// The discovery document.
    pub configuration_url: RemoteUrl,
    /// Client id.
    pub client_id: String,
    /// Client secret.
    pub client_secret: String,
    /// Scopes.
    pub scopes: Vec<String>,
    /// JSON pointer to the claim that allow rules compare as the user's id.
    pub id_field: String,
    /// JSON pointer to the groups.
    pub groups_field: String,
    /// JSON pointers to claims that are sent upstream.
    pub mapped: Vec<String>,
    /// Tenants whose users may sign in.
    pub tenants: Vec<String>,
    /// The expected issuer, if it does not follow from the URL of the discovery document.
    pub issuer: Option<String>,
    /// Treat an e-mail address as verified unless the provider says that it is not. Not applied to multi-tenant
    /// providers.
    pub assumes_verified_email: bool,
    /// The provider is Google, which needs some special cases.
    pub is_google: bool,
}

impl OidcConfig {
    /// Is the URL of the discovery document one of a multi-tenant endpoint?
    pub fn serves_many_tenants(&self) -> bool {
        let url = self.configuration_url.to_string();
        ["/common/", "/organizations/", "/consumers/"].iter().any(|p| url.contains(p)) || url.contains(TENANT)
    }

    /// Is an ID token expected (scope `openid`)?
    pub fn wants_id_token(&self) -> bool {
        self.scopes.iter().any(|s| s == "openid")
    }
}
