//! On whose behalf a process runs.

use std::sync::Arc;

use crate::encoding::digest;
use crate::identity::{ClientId, UserId, UserRecord};

/// On whose behalf a child runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) user: UserId,
    pub(crate) email: Option<String>,
    pub(crate) client: ClientId,
    /// What a provider says of the user.
    pub(crate) person: Option<Arc<UserRecord>>,
}

impl Owner {
    /// Would a child be told the same of both?
    pub(crate) fn is_same(&self, other: &Owner) -> bool {
        let said = |owner: &Owner| owner.person.as_ref().map(|p| p.profile.clone());
        self.user == other.user && self.client == other.client && self.email == other.email && said(self) == said(other)
    }

    /// Stands for the owner in session ids.
    pub(crate) fn digest(&self) -> String {
        digest(format!("{}\0{}", self.user, self.client).as_bytes())
    }
}
