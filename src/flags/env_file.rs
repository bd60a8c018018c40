//! A file with variables (`--env-file`), for those that have no process manager to set them, and for changes without a restart.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::process::geteuid;

use super::flag::Flag;
use super::list::FLAGS;

const VARIABLE: &str = "ENV_FILE";

/// The environment, with the variables of the file that a flag or the environment names behind it. The error is one line.
pub(super) fn behind<E: Fn(&str) -> Option<String>, F: Fn(&str) -> io::Result<String>>(
    typed: &[(&'static Flag, String)],
    env: &E,
    file: &F,
) -> Result<impl Fn(&str) -> Option<String>, String> {
    // An empty variable counts as unset.
    let own = |name: &str| env(name).filter(|value| !value.is_empty());
    let typed = typed.iter().rev().find(|(flag, _)| flag.env == VARIABLE).map(|(_, path)| path.clone());
    let more = match typed.or_else(|| own(VARIABLE)) {
        Some(path) => {
            check(&path).map_err(|why| format!("--env-file (ENV_FILE): {path} {why}"))?;
            let text = file(&path).map_err(|e| format!("--env-file (ENV_FILE): can't read {path}: {e}"))?;
            variables(&text).map_err(|(line, why)| format!("--env-file (ENV_FILE): {path}, line {line}: {why}"))?
        }
        None => BTreeMap::new(),
    };
    Ok(move |name: &str| own(name).or_else(|| more.get(name).cloned()))
}

/// A pipe would hold whoever reads it, and whoever may write the file decides who gets in.
fn check(path: &str) -> Result<(), String> {
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    let own = geteuid().as_raw();
    match () {
        () if !found.is_file() => Err("is no regular file".into()),
        () if found.uid() != own && found.uid() != 0 => {
            Err(format!("belongs to another user (id {}), who could change it; run: chown {own} {path}", found.uid()))
        }
        () if found.mode() & 0o022 != 0 => {
            Err(format!("can be changed by other users (mode {:03o}); run: chmod 600 {path}", found.mode() & 0o777))
        }
        () => Ok(()),
    }
}

/// Reads `NAME=value` lines, as systemd and Docker do: empty lines and those that begin with `#` are left out, and quotes
/// around a value are, too. The error has the number of the line; it does not show values, which may be secrets.
fn variables(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let mut variables = BTreeMap::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err((number, "it is not NAME=value".into()));
        };
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        let is_known = FLAGS.iter().any(|flag| {
            let of_file = (flag.secret || flag.from_file) && name.strip_suffix("_FILE") == Some(flag.env);
            (flag.env == name || of_file) && name != VARIABLE
        });
        if !is_known {
            return Err((number, format!("{name} is no variable of this program; --help lists them all")));
        }
        let value = value.trim();
        let unquoted = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        if variables.insert(name.to_string(), unquoted.unwrap_or(value).to_string()).is_some() {
            return Err((number, format!("{name} is set for the second time")));
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_set_variables_of_this_program_alone() {
        let read =
            variables("# who\n\nexport PASSWORD=\"a = b\"\r\nRATE_LIMIT = 60\nPASSWORD_HASH_FILE='/run/x'\nLISTEN=\n");
        let read: Vec<_> = read.unwrap().into_iter().collect();
        let expected = [("LISTEN", ""), ("PASSWORD", "a = b"), ("PASSWORD_HASH_FILE", "/run/x"), ("RATE_LIMIT", "60")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_string(), value.to_string())));
        for (bad, line) in [
            ("PATH=/bin", 1),
            ("\nPASSWORD", 2),
            ("PASSWORD=a\nPASSWORD=b", 2),
            ("ENV_FILE=other", 1),
            ("LISTEN_FILE=x", 1),
            ("=x", 1),
        ] {
            let (at, why) = variables(bad).unwrap_err();
            assert!(at == line && !why.contains("=a"), "{bad}: {at} {why}");
        }
    }
}
