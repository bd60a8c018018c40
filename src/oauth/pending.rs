//! Limits the authorization codes that wait to be redeemed. Each code is a row in the store, and a user can submit a
//! page many times.

use std::sync::Mutex;

use crate::bounded_map::BoundedMap;
use crate::clock::Timestamp;
use crate::identity::UserId;
use crate::lock::Unpoisoned;

/// Maximum number of codes from one page. More than one, so that a double click or the back button does no harm.
const OF_ONE_PAGE: usize = 3;
/// Maximum number of unexpired codes of one user.
const OF_ONE_USER: usize = 30;
/// Maximum number of pages, and of users, that are remembered.
const MAX_ENTRIES: usize = 20_000;

/// Counts the codes that were issued, for each page and each user.
pub struct PendingCodes(Mutex<State>);

struct State {
    /// For each page, how many codes it has produced and when the page expires.
    pages: BoundedMap<String, (usize, Timestamp)>,
    /// For each user, when their codes expire.
    users: BoundedMap<UserId, Vec<Timestamp>>,
}

impl Default for PendingCodes {
    fn default() -> PendingCodes {
        let (pages, users) = (BoundedMap::new(MAX_ENTRIES), BoundedMap::new(MAX_ENTRIES));
        PendingCodes(Mutex::new(State { pages, users }))
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The limit for one page.
    Page,
    /// The limit for one user.
    User,
}

impl PendingCodes {
    /// Counts a code for `user` from a page that expires at `page_exp`, or says which limit is reached.
    pub fn take(
        &self,
        page: &str,
        page_exp: Timestamp,
        user: &UserId,
        code_exp: Timestamp,
        now: Timestamp,
    ) -> Result<(), Full> {
        let mut state = self.0.lock().unpoisoned();
        let State { pages, users } = &mut *state;
        let codes = users.get_or_insert(user.clone(), Vec::new(), &[&|codes| codes.iter().all(|exp| *exp <= now)]);
        codes.retain(|exp| *exp > now);
        if codes.len() >= OF_ONE_USER {
            return Err(Full::User);
        }
        let (count, _) = pages.get_or_insert(page.to_string(), (0, page_exp), &[&|(_, exp)| *exp <= now]);
        if *count >= OF_ONE_PAGE {
            return Err(Full::Page);
        }
        *count += 1;
        codes.push(code_exp);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_and_a_user_have_so_many_and_time_frees_them() {
        let (pending, alice, bob) = (PendingCodes::default(), UserId("a".into()), UserId("b".into()));
        for _ in 0..OF_ONE_PAGE {
            assert_eq!(pending.take("page", 900, &alice, 60, 0), Ok(()));
        }
        assert_eq!(pending.take("page", 900, &alice, 60, 0), Err(Full::Page));
        assert_eq!(pending.take("page", 900, &bob, 60, 0), Err(Full::Page), "nor for another user");
        let more = (0..100).filter(|n| pending.take(&format!("page {n}"), 900, &alice, 60, 0).is_ok()).count();
        assert_eq!(more, OF_ONE_USER - OF_ONE_PAGE);
        assert_eq!(pending.take("other", 900, &alice, 60, 59), Err(Full::User));
        assert_eq!(pending.take("other", 900, &bob, 60, 59), Ok(()), "others are not concerned");
        assert_eq!(pending.take("other", 960, &alice, 120, 60), Ok(()));
    }
}
