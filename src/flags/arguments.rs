//! The arguments of the command line, one after the other.

use super::commands::COMMANDS;
use super::flag::Command;
use super::list::FLAGS;

/// Lengths of the ids that the proxy makes: 16 and 18 bytes in base64url.
const ID_LENGTHS: [usize; 2] = [22, 24];

/// The next argument. One in 64 ids of grants and clients begins with a dash: it is a word, and no flag.
pub(super) fn next_argument<'p>(
    parser: &'p mut lexopt::Parser,
    words: &mut Vec<String>,
) -> Result<Option<lexopt::Arg<'p>>, String> {
    if words.len() >= 2
        && command_named(words).is_some()
        && let Some(mut rest) = parser.try_raw_args()
    {
        let is_flag = |word: &str| FLAGS.iter().any(|f| f.long.is_some() && f.long == word.strip_prefix("--"));
        let is_id = |word: &str| word.starts_with('-') && ID_LENGTHS.contains(&word.len()) && !is_flag(word);
        while let Some(id) = rest.next_if(|word| word.to_str().is_some_and(is_id)) {
            words.extend(id.into_string().ok());
        }
    }
    parser.next().map_err(|e| e.to_string())
}

/// The subcommand that the first of `words` names.
pub(super) fn command_named(words: &[String]) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| words.first().is_some_and(|word| word == c.name))
}
