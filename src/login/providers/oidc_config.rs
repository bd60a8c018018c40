//! How an OpenID Connect provider is spoken to, as configured.

use crate::http::client::RemoteUrl;

/// The user id field that allow rules compare without case, and only when it is verified.
pub const EMAIL_FIELD: &str = "/email";
/// What stands for the tenant in the issuer of a provider that serves many.
pub(super) const TENANT: &str = "{tenantid}";

/// How to speak to the provider.
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
    /// JSON pointer to what allow rules compare.
    pub id_field: String,
    /// JSON pointer to the groups.
    pub groups_field: String,
    /// Tenants that are let in.
    pub tenants: Vec<String>,
    /// The issuer, where the discovery document has another than its own URL says.
    pub issuer: Option<String>,
    /// An address is verified unless the provider says that it is not.
    pub assumes_verified_email: bool,
    /// It is Google, whose habits differ a little.
    pub is_google: bool,
}

impl OidcConfig {
    /// Does the URL of the discovery document stand for many tenants?
    pub fn serves_many_tenants(&self) -> bool {
        let url = self.configuration_url.to_string();
        ["/common/", "/organizations/", "/consumers/"].iter().any(|p| url.contains(p)) || url.contains(TENANT)
    }

    /// Is there an ID token to expect?
    pub fn wants_id_token(&self) -> bool {
        self.scopes.iter().any(|s| s == "openid")
    }
}
