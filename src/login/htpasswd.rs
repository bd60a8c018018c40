//! Files of users and groups, as Apache's `htpasswd` writes them and its `AuthGroupFile` is written.

use std::collections::BTreeMap;

/// Lowest and highest cost of a bcrypt hash. Cheaper ones can be guessed too fast; dearer ones take a check many seconds.
const COSTS: std::ops::RangeInclusive<u32> = 10..=15;
/// Longest name, in bytes.
const MAX_NAME: usize = 64;

/// A user of a htpasswd file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The bcrypt hash of the password.
    pub hash: String,
}

/// Groups by the name of their members.
pub type Groups = BTreeMap<String, Vec<String>>;

/// Reads the lines `name:hash`. The error names the line, never the hash.
pub fn accounts(text: &str) -> Result<Vec<Account>, String> {
    let mut accounts: Vec<Account> = Vec::new();
    for (at, line) in lines(text) {
        let refuse = |why: String| Err(format!("line {at}: {why}"));
        let Some((name, hash)) = line.split_once(':') else {
            return refuse("a line is name:hash; make one with: mcp-auth-proxy hash-password --user NAME".into());
        };
        if !is_name(name) {
            return refuse("a name has 1 to 64 bytes, and no blank or control character".into());
        }
        // Fields behind the hash, as some programs write them, are not needed.
        let hash = hash.split(':').next().unwrap_or_default();
        if let Err(why) = check_hash(hash) {
            return refuse(format!(
                "the hash of '{name}' {why}; make a good one with: mcp-auth-proxy hash-password --user {name}, or: htpasswd -nB -C 12 {name}"
            ));
        }
        if accounts.iter().any(|account| account.name == name) {
            return refuse(format!("'{name}' is there twice"));
        }
        accounts.push(Account { name: name.into(), hash: hash.into() });
    }
    // Half a file, or one that is just being written, must not sign everybody out.
    if accounts.is_empty() {
        return Err("there is no user in it".into());
    }
    Ok(accounts)
}

/// Reads the lines `group: name name …`.
pub fn groups(text: &str) -> Result<Groups, String> {
    let mut groups = Groups::new();
    for (at, line) in lines(text) {
        let (group, members) =
            line.split_once(':').ok_or_else(|| format!("line {at}: a line is group: name name …"))?;
        let group = group.trim();
        if !is_name(group) {
            return Err(format!("line {at}: a group has 1 to 64 bytes, and no control character"));
        }
        for member in members.split_whitespace() {
            if member.contains(',') {
                return Err(format!(
                    "line {at}: names stand behind one another with a blank between them, not a comma"
                ));
            }
            let of = groups.entry(member.to_string()).or_default();
            if !of.iter().any(|known| known == group) {
                of.push(group.to_string());
            }
        }
    }
    if groups.is_empty() {
        return Err("there is no group in it".into());
    }
    Ok(groups)
}

/// Is this a name that a line can begin with?
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.contains(':')
        && !name.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let all = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    all.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Why a hash is not accepted.
fn check_hash(hash: &str) -> Result<(), &'static str> {
    let Ok(parts) = hash.parse::<bcrypt::HashParts>() else {
        return Err("is not a bcrypt hash, and other kinds can be guessed too fast");
    };
    let cost = parts.get_cost();
    if cost < *COSTS.start() {
        return Err("has a cost below 10, and can be guessed too fast");
    }
    if cost > *COSTS.end() {
        return Err("has a cost above 15, and checking it would take many seconds");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "$2y$10$7EqJtq98hPqEX7fNZaFWoOhi5B4tv1h1JkbRr7nWUjR0P0bLrVVIe";

    #[test]
    fn bcrypt_lines_are_taken_and_others_refused() {
        let text = format!("# users\n\nalice:{GOOD}\nbob.smith:{GOOD}:more\n");
        let found = accounts(&text).unwrap();
        assert_eq!(found.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["alice", "bob.smith"]);
        assert_eq!(found[1].hash, GOOD);
        for (line, want) in [
            ("alice", "name:hash"),
            (":x", "1 to 64 bytes"),
            ("a\tb:x", "control"),
            ("a b:x", "no blank"),
            ("# nobody", "there is no user in it"),
            ("alice:secret", "not a bcrypt hash"),
            ("alice:$apr1$abc$def", "not a bcrypt hash"),
            ("alice:{SHA}abc=", "not a bcrypt hash"),
            (&format!("alice:{}", GOOD.replace("$10$", "$05$")), "below 10"),
            (&format!("alice:{}", GOOD.replace("$10$", "$31$")), "above 15"),
            (&format!("a:{GOOD}\na:{GOOD}"), "twice"),
        ] {
            let why = accounts(line).unwrap_err();
            assert!(why.contains(want) && !why.contains("secret") && !why.contains("apr1"), "{line}: {why}");
        }
    }

    #[test]
    fn groups_are_known_by_their_members() {
        let found = groups("# g\nops: alice bob\ndev:alice\nops: alice\n").unwrap();
        assert_eq!(found["alice"], ["ops", "dev"]);
        assert_eq!(found["bob"], ["ops"]);
        assert!(
            groups("# nothing\n").is_err()
                && groups("ops alice").is_err()
                && groups(": alice").is_err()
                && groups("ops: alice, bob").is_err()
        );
    }
}
