//! The user and client that a process runs for.

use crate::encoding::digest;
use crate::identity::{ClientId, UserId, Voucher};

/// The user and client that a child runs for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) user: UserId,
    pub(crate) email: Option<String>,
    pub(crate) client: ClientId,
    /// Who vouches for the user.
    pub(crate) person: Option<Voucher>,
}

impl Owner {
    /// Would a child get the same information about both owners?
    pub(crate) fn is_same(&self, other: &Owner) -> bool {
        let said = |owner: &Owner| owner.person.as_ref().map(|p| p.profile().clone());
        self.user == other.user && self.client == other.client && self.email == other.email && said(self) == said(other)
    }

    /// A digest of user and client that stands for the owner in session ids.
    pub(crate) fn digest(&self) -> String {
        digest(format!("{}\0{}", self.user, self.client).as_bytes())
    }
}
