//! Reads members of JSON objects without building a tree of the whole.

use std::borrow::Cow;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub(super) fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// Would a case-insensitive parser take `name` for `member`? As in Go, U+212A (Kelvin sign) matches k, and U+017F (long
/// s) matches s.
pub fn is_spelling(name: &str, member: &str) -> bool {
    let fold = |c: char| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(member.chars().map(fold))
}

/// Does one of `members` occur twice in `object`, or in another spelling? Also true if `object` can't be parsed.
pub(super) fn has_twins(object: &RawValue, members: &[&str]) -> bool {
    if !object.get().starts_with('{') {
        return false;
    }
    let (mut seen, mut found) = (vec![false; members.len()], false);
    let read = each_member(object.get(), |name, _| {
        if let Some(i) = members.iter().position(|member| is_spelling(name, member)) {
            found |= std::mem::replace(&mut seen[i], true) || name != members[i];
        }
    });
    found || read.is_err()
}

/// The last member of `object` that is called `name`.
pub(super) fn member<'m>(object: &'m RawValue, name: &str) -> Option<&'m RawValue> {
    let mut found = None;
    each_member(object.get(), |n, value| {
        if n == name {
            found = Some(value);
        }
    })
    .ok()?;
    found
}

pub(super) fn each_member<'m>(object: &'m str, visit: impl FnMut(&str, &'m RawValue)) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(object);
    EachMember(visit).deserialize(&mut deserializer)?;
    deserializer.end()
}

struct EachMember<F>(F);

impl<'m, F: FnMut(&str, &'m RawValue)> DeserializeSeed<'m> for EachMember<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'m>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'m, F: FnMut(&str, &'m RawValue)> Visitor<'m> for EachMember<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'m>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            let value = map.next_value()?;
            (self.0)(&name, value);
        }
        Ok(())
    }
}

/// The name of a member, which is copied only if it has an escape.
struct Name<'m>(Cow<'m, str>);

impl<'m> Deserialize<'m> for Name<'m> {
    fn deserialize<D: Deserializer<'m>>(deserializer: D) -> Result<Name<'m>, D::Error> {
        struct Read;

        impl<'m> Visitor<'m> for Read {
            type Value = Name<'m>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'m str) -> Result<Name<'m>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'m>, E> {
                Ok(Name(Cow::Owned(name.into())))
            }
        }
        deserializer.deserialize_str(Read)
    }
}
