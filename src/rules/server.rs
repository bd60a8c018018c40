//! Which users may use one MCP server, of those who may sign in. One matching entry is enough.

use super::pattern::{check_glob, matches};
use super::provider::same_but_case;
use crate::encoding::digest;
use crate::identity::{UserId, UserProfile};

/// The ways to sign in that entries may name, with a colon behind: `github:alice`.
const METHODS: [&str; 5] = ["password", "htpasswd", "google", "github", "oidc"];
/// Those whose users can't be in groups.
const WITHOUT_GROUPS: [&str; 4] = ["password", "google", "client", "key"];
/// What entries may name as they name ways to sign in: clients that act for themselves, and API keys.
pub const MACHINES: [&str; 2] = ["client", "key"];

/// The `allow` object of a server in the servers file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerRules {
    /// Everybody who signed in in one of these ways.
    methods: Vec<String>,
    users: Vec<Entry>,
    patterns: Vec<Entry>,
    groups: Vec<Entry>,
}

/// A name, a pattern or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The way to sign in whose users it means; `None` for a verified e-mail address, whoever verified it.
    method: Option<String>,
    text: String,
}

/// The lists as they stand in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerRulesText {
    /// Names of users.
    pub users: Vec<String>,
    /// Patterns for names.
    pub patterns: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Ways to sign in.
    pub providers: Vec<String>,
}

impl ServerRules {
    /// Reads the lists. `configured` are the ways to sign in that there are, and the names of trusted issuers. An entry that
    /// could mean users of several ways to sign in is refused, because the same name belongs to different people there. The
    /// error names the entry.
    pub fn parse(lists: &ServerRulesText, configured: &[String]) -> Result<ServerRules, String> {
        let configured: Vec<&str> = configured.iter().map(String::as_str).chain(MACHINES).collect();
        let configured = configured.as_slice();
        let with_groups: Vec<&str> = configured.iter().copied().filter(|m| !WITHOUT_GROUPS.contains(m)).collect();
        let entries = |list: &[String], candidates: &[&str], may_be_address: bool| -> Result<Vec<Entry>, String> {
            list.iter().map(|text| entry(text, candidates, may_be_address)).collect()
        };
        let method = |text: &String| match configured.contains(&text.as_str()) {
            true => Ok(text.clone()),
            false if METHODS.contains(&text.as_str()) => {
                Err(format!("nobody can sign in with '{text}': it is not configured"))
            }
            false => Err(format!("'{text}' is no way to sign in; they are {}", METHODS.join(", "))),
        };
        let rules = ServerRules {
            methods: lists.providers.iter().map(method).collect::<Result<_, _>>()?,
            users: entries(&lists.users, configured, true)?,
            patterns: entries(&lists.patterns, configured, true)?,
            groups: entries(&lists.groups, &with_groups, false)?,
        };
        for entry in &rules.patterns {
            check_glob(&entry.text).map_err(|why| format!("the pattern '{}' {why}", entry.text))?;
        }
        Ok(rules)
    }

    /// May this user use the server? `profile` is what the provider says, `groups` are those of users without a provider.
    pub fn admit(&self, user: &UserId, profile: Option<&UserProfile>, groups: &[String]) -> bool {
        let (method, local) = user.as_str().split_once(':').unwrap_or((user.as_str(), ""));
        // What stands behind the colon is a name only here; a provider has an account number there.
        let own_name = Some(local).filter(|_| matches!(method, "password" | "htpasswd" | "client" | "key"));
        let id = profile.map_or(own_name, |profile| profile.id.as_deref());
        let email = profile.and_then(|profile| profile.email.as_deref());
        let groups = profile.map_or(groups, |profile| &profile.groups);
        self.admit_as(method, id, email, groups)
    }

    /// May the user with this profile use the server, by the entries that name this trusted issuer?
    pub fn admit_asserted(&self, issuer: &str, profile: &UserProfile) -> bool {
        self.admit_as(issuer, profile.id.as_deref(), None, &profile.groups)
    }

    /// `email` is the verified address that entries may mean which name no way to sign in.
    fn admit_as(&self, method: &str, id: Option<&str>, email: Option<&str>, groups: &[String]) -> bool {
        // As in the rules of the provider: e-mail addresses and GitHub's names have no case.
        let ignores_case = matches!(method, "google" | "github") || email.is_some_and(|email| id == Some(email));
        let fits = |entry: &Entry, test: &dyn Fn(&str, &str, bool) -> bool| match &entry.method {
            Some(of) => of == method && id.is_some_and(|id| test(&entry.text, id, ignores_case)),
            None => email.is_some_and(|email| test(&entry.text, email, true)),
        };
        let is_same = |a: &str, b: &str, ignores_case: bool| a == b || (ignores_case && same_but_case(a, b));
        let is_member = |entry: &Entry| {
            let is_of = entry.method.as_deref() == Some(method);
            is_of && groups.iter().any(|group| is_same(&entry.text, group, method == "github"))
        };
        self.methods.iter().any(|m| m == method)
            || self.users.iter().any(|entry| fits(entry, &is_same))
            || self.patterns.iter().any(|entry| fits(entry, &matches))
            || self.groups.iter().any(is_member)
    }

    /// The names of users of `method` that are allowed.
    pub fn users_of(&self, method: &str) -> impl Iterator<Item = &str> {
        let is_of = move |entry: &&Entry| entry.method.as_deref() == Some(method);
        self.users.iter().filter(is_of).map(|entry| entry.text.as_str())
    }

    /// The groups that users of `method` may be members of.
    pub fn groups_of(&self, method: &str) -> impl Iterator<Item = &str> {
        let is_of = move |entry: &&Entry| entry.method.as_deref() == Some(method);
        self.groups.iter().filter(is_of).map(|entry| entry.text.as_str())
    }

    /// A digest of the rules. A token that was issued under rules with another digest has to be refreshed.
    pub fn digest(&self) -> String {
        let mut mark = digest(format!("{self:?}").as_bytes());
        mark.truncate(12);
        mark
    }
}

fn entry(text: &str, candidates: &[&str], may_be_address: bool) -> Result<Entry, String> {
    let is_method =
        |method: &str| METHODS.contains(&method) || candidates.contains(&method) || MACHINES.contains(&method);
    if let Some((method, rest)) = text.split_once(':').filter(|(method, _)| is_method(method)) {
        return match candidates.contains(&method) {
            true => Ok(Entry { method: Some(method.into()), text: rest.into() }),
            false => Err(format!("'{text}' fits nobody: {method} is not configured, or its users have no groups")),
        };
    }
    if text == "password" && candidates.contains(&"password") {
        return Ok(Entry { method: Some("password".into()), text: String::new() });
    }
    // Clients, keys and the users of trusted issuers are meant only where an entry says so.
    let named: Vec<&str> = candidates.iter().copied().filter(|m| *m != "password" && METHODS.contains(m)).collect();
    match named.as_slice() {
        [] => Err(format!(
            "'{text}' fits nobody: no way to sign in is configured whose users have names or groups; set up --htpasswd-file (HTPASSWD_FILE) with --htgroup-file (HTGROUP_FILE), or a provider"
        )),
        [only] => Ok(Entry { method: Some((*only).into()), text: text.into() }),
        _ if may_be_address && text.contains('@') => Ok(Entry { method: None, text: text.into() }),
        several => {
            let ways: Vec<String> = several.iter().map(|m| format!("{m}:{text}")).collect();
            Err(format!("'{text}' could be different people, by how they sign in; write {}", ways.join(" or ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|i| i.to_string()).collect()
    }

    fn users(items: &[&str], configured: &[&str]) -> Result<ServerRules, String> {
        ServerRules::parse(&ServerRulesText { users: list(items), ..ServerRulesText::default() }, &list(configured))
    }

    fn profile(id: &str, email: Option<&str>) -> UserProfile {
        UserProfile { id: Some(id.into()), email: email.map(String::from), ..UserProfile::default() }
    }

    #[test]
    fn a_name_never_means_people_of_two_providers() {
        let both = ["github", "oidc"];
        assert!(users(&["alice"], &both).unwrap_err().contains("github:alice or oidc:alice"));
        let rules = users(&["github:alice"], &both).unwrap();
        let admits = |user: &str, profile: &UserProfile| rules.admit(&UserId(user.into()), Some(profile), &[]);
        assert!(admits("github:1", &profile("Alice", None)), "GitHub's names have no case");
        assert!(!admits("oidc:https://idp:1", &profile("alice", None)));
        assert!(!admits("github:2", &profile("alic", None)));
        let number = users(&["github:1"], &both).unwrap();
        assert!(!number.admit(&UserId("github:1".into()), None, &[]), "an account number is no name");
        let rules = users(&["alice@example.com"], &both).unwrap();
        let admits = |profile: &UserProfile| rules.admit(&UserId("oidc:https://idp:1".into()), Some(profile), &[]);
        assert!(admits(&profile("1", Some("Alice@example.com"))));
        assert!(
            !admits(&profile("alice@example.com", None)),
            "a name that looks like an address is no verified address"
        );
    }

    #[test]
    fn a_single_way_to_sign_in_needs_no_prefix() {
        let rules = users(&["alice", "password"], &["password", "htpasswd"]).unwrap();
        let admits = |user: &str| rules.admit(&UserId(user.into()), None, &[]);
        assert!(admits("htpasswd:alice") && admits("password"));
        assert!(!admits("htpasswd:Alice") && !admits("htpasswd:password") && !admits("htpasswd:"));
        assert!(users(&["alice"], &["password"]).is_err());
        assert!(users(&["google:a@b"], &["password", "htpasswd"]).is_err(), "it is not configured");
    }

    #[test]
    fn groups_patterns_and_ways_to_sign_in_admit_too() {
        let text = ServerRulesText {
            groups: list(&["acme/ops"]),
            patterns: list(&["*@example.com"]),
            providers: list(&["htpasswd"]),
            ..ServerRulesText::default()
        };
        let rules = ServerRules::parse(&text, &list(&["htpasswd", "google"])).unwrap();
        let member = list(&["acme/ops"]);
        assert!(rules.admit(&UserId("htpasswd:x".into()), None, &[]));
        assert!(rules.admit(&UserId("google:1".into()), Some(&profile("a@example.com", Some("a@example.com"))), &[]));
        assert!(!rules.admit(
            &UserId("google:1".into()),
            Some(&profile("a@example.org", Some("a@example.org"))),
            &member
        ));
        let rules = ServerRules::parse(
            &ServerRulesText { providers: Vec::new(), ..text.clone() },
            &list(&["htpasswd", "google"]),
        )
        .unwrap();
        assert!(
            rules.admit(&UserId("htpasswd:x".into()), None, &member)
                && !rules.admit(&UserId("htpasswd:x".into()), None, &[])
        );
        assert_eq!(rules.groups_of("htpasswd").collect::<Vec<_>>(), ["acme/ops"]);
        for (change, want) in [
            (ServerRulesText { patterns: list(&["oidc:[a"]), ..ServerRulesText::default() }, "bracket"),
            (ServerRulesText { providers: list(&["github"]), ..ServerRulesText::default() }, "not configured"),
            (ServerRulesText { providers: list(&["gitlab"]), ..ServerRulesText::default() }, "they are password"),
            (ServerRulesText { groups: list(&["ops"]), ..ServerRulesText::default() }, "htpasswd:ops or oidc:ops"),
        ] {
            let refused = ServerRules::parse(&change, &list(&["htpasswd", "google", "oidc"])).unwrap_err();
            assert!(refused.contains(want), "{refused}");
        }
    }

    #[test]
    fn nothing_admits_nobody() {
        assert!(!ServerRules::default().admit(&UserId("password".into()), None, &[]));
        assert_ne!(ServerRules::default().digest(), users(&["a"], &["htpasswd"]).unwrap().digest());
    }
}
