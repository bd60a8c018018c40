//! Which users of a provider may sign in here. One matching rule is enough.

use serde_json::Value;

use super::pattern::matches;
use crate::encoding::digest;
use crate::identity::UserProfile;

/// Maximum length of a name, an address or a group, in bytes.
const MAX_TEXT: usize = 256;
/// Maximum length of all groups together, in bytes.
const MAX_GROUPS: usize = 4 << 10;

/// The allow rules of one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Everybody may sign in.
    pub anyone: bool,
    /// Ids of users.
    pub users: Vec<String>,
    /// Patterns for ids.
    pub globs: Vec<String>,
    /// Ids are compared case-insensitively: true for e-mail addresses and GitHub logins, false for other ids.
    pub ids_ignore_case: bool,
    /// Groups, organisations, teams.
    pub groups: Vec<String>,
    /// Groups that admit nobody here, but that the provider is asked about, because the rules of a server name them.
    pub asked_groups: Vec<String>,
    /// Groups are compared case-insensitively: true for GitHub.
    pub groups_ignore_case: bool,
    /// Google Workspace organisations.
    pub workspaces: Vec<String>,
    /// Claim values, each as `pointer=value` with a JSON pointer.
    pub attributes: Vec<String>,
    /// Allowed tenants of a multi-tenant provider. A user of another tenant is refused, even if other rules match.
    pub tenants: Vec<String>,
}

impl Rules {
    /// Removes values that are too long for header fields and environment variables. If the groups are too long
    /// together, the groups that the rules name are kept first.
    pub fn bound(&self, profile: &mut UserProfile) {
        let is_short = |text: &String| text.len() <= MAX_TEXT;
        profile.id = profile.id.take().filter(is_short);
        profile.email = profile.email.take().filter(is_short);
        profile.name = profile.name.take().filter(is_short);
        profile.groups.retain(is_short);
        profile.groups.sort_by_key(|group| !self.groups.contains(group) && !self.asked_groups.contains(group));
        let mut room = MAX_GROUPS;
        profile.groups.retain(|group| {
            let fits = group.len() < room;
            room = room.saturating_sub(group.len() + 1);
            fits
        });
    }

    /// Are there no rules, so that nobody can sign in?
    pub fn is_empty(&self) -> bool {
        !self.anyone
            && [&self.users, &self.globs, &self.groups, &self.workspaces, &self.attributes].iter().all(|l| l.is_empty())
    }

    /// May the person sign in? Returns the kind of rule that matched, for the log.
    pub fn admit(&self, profile: &UserProfile) -> Option<&'static str> {
        let is_one = |list: &[String], value: &str, ignore_case: bool| {
            list.iter().any(|item| item == value || (ignore_case && same_but_case(item, value)))
        };
        if profile.tenant.as_ref().is_some_and(|tenant| !is_one(&self.tenants, tenant, true)) {
            return None;
        }
        if self.anyone {
            return Some("anyone");
        }
        if let Some(id) = &profile.id {
            if is_one(&self.users, id, self.ids_ignore_case) {
                return Some("user");
            }
            if self.globs.iter().any(|glob| matches(glob, id, self.ids_ignore_case)) {
                return Some("pattern");
            }
        }
        if profile.groups.iter().any(|group| is_one(&self.groups, group, self.groups_ignore_case)) {
            return Some("group");
        }
        if profile.workspace.as_ref().is_some_and(|hd| is_one(&self.workspaces, hd, true)) {
            return Some("workspace");
        }
        let has = |attribute: &String| self.attributes.contains(attribute);
        profile.attributes.iter().any(has).then_some("attribute")
    }

    /// A digest of the rules. A decision made under rules with another digest has to be made again.
    pub fn digest(&self) -> String {
        let mut mark = digest(format!("{self:?}").as_bytes());
        mark.truncate(12);
        mark
    }
}

/// Ignores the case of ASCII letters only. Unicode case folding treats some different characters as equal (the Kelvin
/// sign and k), but the mail system that verified the address does not.
pub(super) fn same_but_case(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// The strings that a claim holds: one, or those of a list.
pub fn strings(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(|v| v.as_str().map(String::from)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|i| i.to_string()).collect()
    }

    #[test]
    fn one_rule_that_fits_is_enough_and_none_lets_nobody_in() {
        let alice = UserProfile {
            id: Some("Alice@Example.com".into()),
            groups: list(&["Engineering"]),
            workspace: Some("example.com".into()),
            attributes: list(&["/role=admin"]),
            ..UserProfile::default()
        };
        let nobody = UserProfile::default();
        let rules = |change: fn(&mut Rules)| {
            let mut rules = Rules::default();
            change(&mut rules);
            rules
        };
        assert!(Rules::default().is_empty() && Rules::default().admit(&alice).is_none());
        for (rules, admits) in [
            (rules(|r| r.anyone = true), true),
            (rules(|r| r.users = list(&["alice@example.com"])), false),
            (rules(|r| (r.users, r.ids_ignore_case) = (list(&["alice@example.com"]), true)), true),
            (rules(|r| r.globs = list(&["*@Example.com"])), true),
            (rules(|r| r.globs = list(&["*@example.com"])), false),
            (rules(|r| r.groups = list(&["Engineering", "other"])), true),
            (rules(|r| r.groups = list(&["engineering"])), false),
            (rules(|r| (r.groups, r.groups_ignore_case) = (list(&["engineering"]), true)), true),
            (rules(|r| r.workspaces = list(&["EXAMPLE.com"])), true),
            (rules(|r| r.attributes = list(&["/role=admin"])), true),
            (rules(|r| r.attributes = list(&["/role=user"])), false),
        ] {
            assert_eq!(rules.admit(&alice).is_some(), admits, "{rules:?}");
            assert_eq!(rules.admit(&nobody).is_some(), rules.anyone, "{rules:?}");
        }
        assert_ne!(rules(|r| r.users = list(&["a"])).digest(), rules(|r| r.groups = list(&["a"])).digest());
    }

    #[test]
    fn claims_hold_one_string_or_many() {
        assert_eq!(strings(Some(&serde_json::json!("a"))), ["a"]);
        assert_eq!(strings(Some(&serde_json::json!(["a", 1, "b"]))), ["a", "b"]);
        assert!(strings(Some(&serde_json::json!({"a": 1}))).is_empty() && strings(None).is_empty());
    }
}
