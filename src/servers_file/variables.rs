//! Variables in values: `${VAR}`, `${VAR:-default}`, `${env:VAR}`; and the lines of an `envFile`.

/// What a value with variables becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The variables whose values are in it.
    pub(super) used: Vec<String>,
}

/// Replaces the variables in `text` by what `env` says of them. `secrets` are the variables with this proxy's own secrets,
/// which no server gets. The error says what is wrong.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>, secrets: &[&str]) -> Result<Expanded, String> {
    let (mut out, mut used, mut rest) = (String::new(), Vec::new(), text);
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        let end = after.find('}').ok_or_else(|| format!("'{}' has no closing brace", &rest[start..]))?;
        let (inner, whole) = (&after[..end], &rest[start..start + 3 + end]);
        rest = &after[end + 1..];
        if matches!(inner, "/" | "pathSeparator") {
            out.push('/');
            continue;
        }
        let (name, default) = inner.split_once(":-").map_or((inner, None), |(name, default)| (name, Some(default)));
        let name = name.strip_prefix("env:").unwrap_or(name);
        if let Some(why) = unknown(name) {
            return Err(format!("'{whole}' {why}"));
        }
        if is_secret(name, secrets) {
            return Err(format!(
                "'{whole}' is a secret of this proxy, which no MCP server may have; use a variable of another name"
            ));
        }
        match (env(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!("the variable {name} is not set; set it, or give a default: ${{{name}:-…}}"));
            }
        }
        used.push(name.to_string());
    }
    out.push_str(rest);
    Ok(Expanded { text: out, used })
}

/// Why there is no variable of this name, `None` if there can be one.
fn unknown(name: &str) -> Option<&'static str> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.starts_with("input:") {
        return Some(
            "asks a person, and nobody is there to answer; write the value into a variable of the environment",
        );
    }
    let predefined = ["workspaceFolder", "workspaceRoot", "userHome", "cwd", "file", "execPath", "selectedText"];
    if predefined.iter().any(|word| name.starts_with(word)) || name.contains(':') {
        return Some(
            "stands for something of an editor or a desktop, which a server does not have; write what you mean",
        );
    }
    (name.is_empty() || !name.bytes().all(is_name))
        .then_some("is not a variable; write ${NAME}, ${NAME:-default} or ${env:NAME}")
}

fn is_secret(name: &str, secrets: &[&str]) -> bool {
    secrets.contains(&name.strip_suffix("_FILE").unwrap_or(name))
}

/// A value that Gemini CLI and shells would expand, but that stays as it is here.
pub(super) fn looks_unexpanded(text: &str) -> bool {
    text.strip_prefix('$').is_some_and(|name| {
        name.len() > 1 && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    })
}

/// Reads the lines of an `envFile`: `NAME=value`, with `#` for comments, an optional `export`, and quotes around a value.
/// The error names the line.
pub(super) fn lines(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or_else(|| format!("line {} is not NAME=value", at + 1))?;
        let name = name.trim();
        if unknown(name).is_some() {
            return Err(format!("line {} is not NAME=value", at + 1));
        }
        let value = value.trim();
        let inside = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        let value = inside('"')
            .map(|v| v.replace("\\n", "\n").replace("\\\"", "\""))
            .or_else(|| inside('\'').map(String::from));
        let plain =
            || line.split_once('=').map_or("", |(_, v)| v.trim()).split(" #").next().unwrap_or_default().trim_end();
        out.push((name.to_string(), value.unwrap_or_else(|| plain().to_string())));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "TOKEN" => Some("t0k".into()),
            "EMPTY" => Some(String::new()),
            "PASSWORD" => Some("secret".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced() {
        for (text, want) in [
            ("plain", "plain"),
            ("a${TOKEN}b${env:TOKEN}", "at0kbt0k"),
            ("${MISSING:-x y}", "x y"),
            ("${env:MISSING:-}", ""),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY}", ""),
            ("a${/}b${pathSeparator}c", "a/b/c"),
            ("$TOKEN and $ {TOKEN}", "$TOKEN and $ {TOKEN}"),
            ("${MISSING:-${TOKEN}", "${TOKEN"),
        ] {
            assert_eq!(expand(text, &env, &[]).unwrap().text, want, "{text}");
        }
        assert_eq!(expand("${TOKEN}", &env, &[]).unwrap().used, ["TOKEN"]);
    }

    #[test]
    fn what_can_not_be_replaced_is_an_error() {
        for (text, want) in [
            ("${MISSING}", "not set"),
            ("${input:key}", "nobody is there"),
            ("${workspaceFolder}/x", "editor"),
            ("${workspaceFolder:Name}", "editor"),
            ("${userHome}", "editor"),
            ("${config:x}", "editor"),
            ("${command:x}", "editor"),
            ("${file:/etc/passwd}", "editor"),
            ("${a-b}", "not a variable"),
            ("${}", "not a variable"),
            ("${TOKEN", "closing brace"),
            ("${PASSWORD}", "secret of this proxy"),
            ("${PASSWORD_FILE}", "secret of this proxy"),
            ("${env:PASSWORD:-x}", "secret of this proxy"),
        ] {
            let why = expand(text, &env, &["PASSWORD"]).unwrap_err();
            assert!(why.contains(want) && !why.contains("t0k"), "{text}: {why}");
        }
    }

    #[test]
    fn an_environment_file_is_read_line_by_line() {
        let text = "# c\n\nA=1\nexport B = two words # note\nC='x # y'\nD=\"a\\nb\"\nE=\n";
        let want = [("A", "1"), ("B", "two words"), ("C", "x # y"), ("D", "a\nb"), ("E", "")];
        assert_eq!(lines(text).unwrap(), want.map(|(a, b)| (a.to_string(), b.to_string())));
        assert_eq!(lines("A=1\nnothing").unwrap_err(), "line 2 is not NAME=value");
        assert!(lines("A B=1").is_err());
        assert!(looks_unexpanded("$GITHUB_TOKEN") && !looks_unexpanded("$5") && !looks_unexpanded("a$B"));
    }
}
