//! Formats names, redirect targets and times for pages. Names chosen by clients are cleaned before they are shown.

use time::OffsetDateTime;

use super::words::{self, fill_plain};

use crate::clock::Timestamp;
use crate::identity::User;
use crate::observe::log::is_bidi_control;
use crate::redirect_uri::{Destination, RedirectUri};

/// Longest client name that is shown, in characters.
const MAX_NAME: usize = 64;
/// Longest description that is shown, in characters.
const MAX_TEXT: usize = 300;

/// Where a redirect leads, in words.
pub(super) fn place_of(redirect: &RedirectUri) -> String {
    match redirect.destination() {
        Destination::Web => redirect.host().to_string(),
        Destination::Loopback => words::LOCAL_PROGRAM.to_string(),
        Destination::PrivateUse => fill_plain(words::OF_LINKS, &[("scheme", redirect.scheme())]),
    }
}

/// Characters that show nothing (Unicode `Default_Ignorable_Code_Point`, and blanks that are no white space), with which two
/// different names look the same.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Cleans a name for display, for example one that a client registered: removes control, direction and invisible
/// characters, and cuts it after 64 characters.
pub fn display_name(name: &str) -> String {
    clean(name, MAX_NAME)
}

fn clean(text: &str, most: usize) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control() && !is_bidi_control(*c) && !is_invisible(*c)).collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    match clean.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

/// Cleans a longer text for display, as [`display_name`] does, and cuts it after 300 characters.
pub fn display_text(text: &str) -> String {
    clean(text, MAX_TEXT)
}

/// `files`, `files and wiki`, `files, wiki and github`.
pub(super) fn titles_in_words(titles: &[&str]) -> String {
    let titles: Vec<String> = titles.iter().map(|title| display_name(title)).collect();
    match titles.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => fill_plain(words::LIST, &[("first", &first.join(", ")), ("last", last)]),
    }
}

pub(super) fn display_user(user: &User) -> String {
    match (&user.email, user.id.as_str()) {
        (Some(email), _) => email.clone(),
        (None, "password") => words::THE_OWNER.into(),
        (None, id) if id.starts_with("htpasswd:") => id.trim_start_matches("htpasswd:").into(),
        (None, id) => id.into(),
    }
}

/// Splits a host name before the part that somebody has registered: its last two labels, or three where the last but one is
/// of the kind that countries use, as in `co.uk`. A list of all such names would be larger than the rest of this program, so
/// this is what is right for nearly all of them.
pub(super) fn registrable(host: &str) -> (&str, &str) {
    if crate::url::is_address(host) {
        return ("", host);
    }
    let dots: Vec<usize> = host.match_indices('.').map(|(at, _)| at).collect();
    let label = |from: usize, to: usize| host[from..to].len();
    let is_of_country = match dots.as_slice() {
        [.., second, last] => label(last + 1, host.len()) == 2 && label(second + 1, *last) <= 3,
        [only] => label(only + 1, host.len()) == 2 && label(0, *only) <= 3,
        [] => false,
    };
    let labels = if is_of_country { 3 } else { 2 };
    match dots.len().checked_sub(labels) {
        Some(at) => host.split_at(dots[at] + 1),
        None => ("", host),
    }
}

pub(super) fn days_in_words(seconds: u64) -> String {
    match seconds.div_ceil(86_400) {
        0 | 1 => words::A_DAY.into(),
        days => fill_plain(words::DAYS, &[("count", &days.to_string())]),
    }
}

/// `27 November 2026, 15:04 UTC`.
pub(super) fn time_in_words(at: Timestamp) -> String {
    let at = i64::try_from(at).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    at.map_or_else(String::new, |at| {
        let (day, month, year) = (at.day().to_string(), at.month().to_string(), at.year().to_string());
        let time = format!("{:02}:{:02}", at.hour(), at.minute());
        fill_plain(words::TIME, &[("day", &day), ("month", &month), ("year", &year), ("time", &time)])
    })
}

pub(super) fn seconds_in_words(seconds: u64) -> String {
    match seconds {
        0..=1 => words::A_SECOND.into(),
        2..=90 => fill_plain(words::SECONDS, &[("count", &seconds.to_string())]),
        _ => fill_plain(words::MINUTES, &[("count", &seconds.div_ceil(60).to_string())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_registered_stands_at_the_end_of_a_host() {
        for (host, wanted) in [
            ("claude.ai", ("", "claude.ai")),
            ("auth.claude.ai", ("auth.", "claude.ai")),
            ("claude.ai.evil.example", ("claude.ai.", "evil.example")),
            ("app.shop.co.uk", ("app.", "shop.co.uk")),
            ("shop.co.uk", ("", "shop.co.uk")),
            ("localhost", ("", "localhost")),
            ("192.0.2.1", ("", "192.0.2.1")),
        ] {
            assert_eq!(registrable(host), wanted, "{host}");
        }
        assert_eq!((days_in_words(30 * 86_400), days_in_words(3_600)), ("30 days".into(), "a day".into()));
    }

    #[test]
    fn names_are_cleaned_and_cut() {
        assert_eq!(display_name("a\u{202e}b\nc\0  d"), "abc d");
        assert_eq!(display_name(&"x".repeat(65)), format!("{}…", "x".repeat(64)));
        assert_eq!(display_name("\u{200f}\u{feff} "), "");
    }
}
