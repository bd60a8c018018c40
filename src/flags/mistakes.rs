//! What is said about a command line that can't be meant so.

use super::list::FLAGS;
use super::lookalikes;

/// The error for `extra`, which stands behind `word`.
pub(super) fn too_many(word: &str, extra: &str) -> String {
    match word {
        _ if is_url(word) && is_url(extra) => format!("one upstream URL is expected, but there are two: {word} and {extra}"),
        "hash-password" => "hash-password takes no password on the command line, which others can see and the shell keeps: it asks for it, or reads it from standard input".into(),
        "demo" | "healthcheck" | "man" | "help" => {
            format!("{word} takes options only, but '{extra}' follows it; see: mcp-auth-proxy {word} --help")
        }
        _ => format!(
            "one upstream URL is expected, but '{extra}' follows '{word}'; write -- before the command of a stdio server, as in: mcp-auth-proxy -- {word} {extra}"
        ),
    }
}

pub(super) fn is_url(text: &str) -> bool {
    text.starts_with("unix:") || text.contains("://")
}

/// The name of a long option of this program that was written with one dash.
pub(super) fn one_dash(arg: &str) -> Option<&str> {
    let name = arg.strip_prefix('-').filter(|rest| rest.len() > 2 && !rest.starts_with('-'))?.split('=').next()?;
    FLAGS.iter().find(|f| f.long == Some(name)).map(|_| name)
}

pub(super) fn unknown_flag(name: &str) -> String {
    if let Some(advice) = lookalikes::advice_for_flag(name) {
        return format!("unknown flag {name}: {advice}; --help lists them all");
    }
    let known = FLAGS.iter().filter_map(|f| f.long).chain(["help", "version"]);
    let hint = suggestion(name.trim_start_matches('-'), known.map(|l| l as &str))
        .map(|h| h.replace('\'', "").replace("did you mean ", "did you mean --"))
        .unwrap_or_default();
    format!("unknown flag {name}{}; --help lists them all", hint.trim_end_matches('?'))
}

/// `; did you mean 'x'?` for the nearest known word, if one is near.
pub(super) fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|k| (strsim::jaro_winkler(word, k), k))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| format!("; did you mean '{k}'?"))
}

/// The error for `word` and a command behind `--`.
pub(super) fn command_and_word(word: &str) -> String {
    format!("either an upstream URL or a command behind -- is expected, but there is '{word}' too")
}
