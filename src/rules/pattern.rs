//! Patterns for names: `*`, `?`, sets and alternatives.

/// Does the whole of `text` match? `*` stands for any number of characters, `?` for exactly one, `[a-z]` for one character
/// of a set, `[!a-z]` for one that is not in the set, `{a,b}` for one of the alternatives.
pub(super) fn matches(glob: &str, text: &str, ignore_case: bool) -> bool {
    let fold = |s: &str| if ignore_case { s.to_ascii_lowercase() } else { s.to_string() };
    let text: Vec<char> = fold(text).chars().collect();
    alternatives(&fold(glob)).iter().any(|pattern| matches_one(&pattern.chars().collect::<Vec<_>>(), &text))
}

/// Does the whole of `text` match the pattern, with its case?
pub fn fits_glob(glob: &str, text: &str) -> bool {
    matches(glob, text, false)
}

/// Checks the syntax of a pattern; the error says what is wrong.
pub fn check_glob(glob: &str) -> Result<(), &'static str> {
    let (mut braces, mut set) = (0, false);
    for c in glob.chars() {
        match (c, set) {
            ('[', false) => set = true,
            (']', true) => set = false,
            (_, true) => {}
            ('{', _) if braces == 1 => return Err("has braces within braces"),
            ('{', _) => braces += 1,
            ('}', _) if braces == 0 => return Err("has a brace too many"),
            ('}', _) => braces -= 1,
            _ => {}
        }
    }
    if set || braces > 0 { Err("has a bracket that is not closed") } else { Ok(()) }
}

/// Expands the braces: one pattern for each combination of alternatives.
fn alternatives(glob: &str) -> Vec<String> {
    let found = glob.find('{').and_then(|open| Some((open, open + glob[open..].find('}')?)));
    let Some((open, close)) = found else { return vec![glob.to_string()] };
    let tails = alternatives(&glob[close + 1..]);
    glob[open + 1..close]
        .split(',')
        .flat_map(|middle| tails.iter().map(move |tail| format!("{}{middle}{tail}", &glob[..open])))
        .collect()
}

/// Matches a pattern without braces. It is not recursive, and backtracks only to the last `*`, so that no pattern takes
/// long.
fn matches_one(glob: &[char], text: &[char]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut again = None;
    while t < text.len() {
        let step = match glob.get(g) {
            Some('*') => {
                again = Some((g + 1, t));
                g += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => set(&glob[g..], text[t]),
            Some(c) if *c == text[t] => Some(1),
            _ => None,
        };
        match (step, again) {
            (Some(length), _) => (g, t) = (g + length, t + 1),
            (None, Some((after, from))) => {
                again = Some((after, from + 1));
                (g, t) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// The length of the set (`[a-z]`) at the start of `glob`, if it contains `c`.
fn set(glob: &[char], c: char) -> Option<usize> {
    let close = 1 + glob[1..].iter().position(|c| *c == ']')?;
    let mut members = &glob[1..close];
    let is_negated = members.first() == Some(&'!');
    if is_negated {
        members = &members[1..];
    }
    let mut is_member = false;
    while let Some(first) = members.first() {
        match members {
            [from, '-', to, rest @ ..] => {
                is_member |= (*from..=*to).contains(&c);
                members = rest;
            }
            _ => {
                is_member |= *first == c;
                members = &members[1..];
            }
        }
    }
    (is_member != is_negated).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_the_whole_text() {
        for (glob, text) in [
            ("*@example.com", "a.b@example.com"),
            ("*", ""),
            ("a*b*c", "a--b-b-c"),
            ("?@x", "ü@x"),
            ("[a-c]x[!0-9]", "bxy"),
            ("*@{a,b}.com", "u@b.com"),
            ("{a,b}{c,d}", "bc"),
            ("a-b", "a-b"),
            ("x[a-]", "x-"),
        ] {
            assert!(check_glob(glob).is_ok() && matches(glob, text, false), "{glob} {text}");
        }
        for (glob, text) in [
            ("*@example.com", "a@example.com.evil"),
            ("*@example.com", "a@EXAMPLE.com"),
            ("a", "ab"),
            ("?", ""),
            ("[!a]", "a"),
            ("*@{a,b}.com", "u@c.com"),
            ("", "a"),
            ("a.c", "abc"),
        ] {
            assert!(!matches(glob, text, false), "{glob} {text}");
        }
        assert!(matches("*@Example.com", "A@eXample.COM", true));
        for bad in ["[a", "{a", "a}", "{a{b}}"] {
            assert!(check_glob(bad).is_err(), "{bad}");
        }
        // A recursive matcher would take years for this.
        assert!(!matches(&"*a".repeat(50), &"a".repeat(49), false));
    }
}
