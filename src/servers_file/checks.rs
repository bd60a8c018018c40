//! Checks of single values: their type, the spelling of keys, and what may stand in a URL.

use super::document::{Member, Node, Value};
use super::keys::{self, Kind, Object};
use crate::flags::values;

/// Why a value is not of this kind, or `None`.
pub(super) fn wrong(kind: Kind, node: &Node) -> Option<String> {
    let expected = |what: &str| Some(format!("{what} is expected, but this is {}", node.kind()));
    match (kind, &node.value) {
        (Kind::Text, Value::Text(_)) | (Kind::Switch, Value::Switch(_)) | (Kind::Object(_), Value::Object(_)) => None,
        (Kind::Texts, Value::List(list)) => {
            let odd = list.iter().find(|item| item.text().is_none())?;
            Some(format!("a list of texts is expected, but there is {} in it", odd.kind()))
        }
        (Kind::Map, Value::Object(members)) => {
            let is_odd = |m: &&Member| matches!(m.node.value, Value::List(_) | Value::Object(_));
            members.iter().find(is_odd).map(|m| format!("'{}' has to be a text, but it is {}", m.name, m.node.kind()))
        }
        (Kind::Count, Value::Number(number)) => values::count(number).err(),
        (Kind::CountOrNone, Value::Number(number)) => values::count_or_none(number).err(),
        (Kind::Duration, Value::Text(text)) => values::duration(text).err(),
        (Kind::Duration, Value::Number(_)) => Some("write the unit, as in \"30s\" or \"5m\"".into()),
        (Kind::Size, Value::Text(text)) => values::size(text).err(),
        (Kind::Choice(words), Value::Text(text)) => {
            (!words.contains(&text.as_str())).then(|| format!("'{text}' is not one of {}", words.join(", ")))
        }
        (Kind::Text | Kind::Choice(_), _) => expected("a text"),
        (Kind::Switch, _) => expected("true or false"),
        (Kind::Texts, _) => expected("a list of texts"),
        (Kind::Map | Kind::Object(_), _) => expected("an object"),
        (Kind::Count | Kind::CountOrNone, _) => expected("a number"),
        (Kind::Duration, _) => expected("a duration such as \"30s\""),
        (Kind::Size, _) => expected("a size such as \"512MiB\""),
    }
}

/// The known key that is nearest to `name`, with the object that it belongs to.
pub(super) fn nearest(object: Object, name: &str) -> Option<String> {
    let everywhere = keys::KEYS.iter().map(|key| (key.object, key.name));
    let shown = |of: Object, key: &str| if of.path().is_empty() { key.into() } else { format!("{}.{key}", of.path()) };
    everywhere
        .map(|(of, key)| {
            (
                strsim::jaro_winkler(&name.to_lowercase(), &key.to_lowercase()) + if of == object { 0.05 } else { 0.0 },
                of,
                key,
            )
        })
        .filter(|(score, ..)| *score > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, of, key)| shown(of, key))
}

/// May it stand in a URL as a segment?
pub(super) fn is_segment(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=64).contains(&text.len())
        && text.bytes().next().is_some_and(is_plain)
        && text.bytes().all(|b| is_plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

/// The segment that is most like `text`.
pub(super) fn segment_like(text: &str) -> String {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' })
        .collect();
    let words: Vec<&str> = plain.split('-').filter(|word| !word.is_empty()).collect();
    let joined = words.join("-");
    let short: String = joined.trim_start_matches(['.', '_', '-']).chars().take(64).collect();
    if is_segment(&short) { short } else { "server".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_plain_and_a_like_one_is_found() {
        for good in ["a", "0", "files", "a.b_c-d", &"x".repeat(64)] {
            assert!(is_segment(good), "{good}");
        }
        for (bad, like) in [
            ("", "server"),
            (".hidden", "hidden"),
            ("-x", "x"),
            ("My Files", "my-files"),
            ("a/b", "a-b"),
            ("ä%2f", "2f"),
            ("..", "server"),
            (&"X".repeat(70), &"x".repeat(64)),
        ] {
            assert!(!is_segment(bad), "{bad}");
            assert_eq!(segment_like(bad), like, "{bad}");
        }
    }

    #[test]
    fn a_misspelt_key_is_recognised() {
        assert_eq!(nearest(Object::Server, "comand").as_deref(), Some("command"));
        assert_eq!(nearest(Object::Server, "Args").as_deref(), Some("args"));
        assert_eq!(nearest(Object::Server, "bearertoken").as_deref(), Some("proxy.bearerToken"));
        assert_eq!(nearest(Object::Server, "zzz"), None);
    }
}
