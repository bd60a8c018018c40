//! `mcp-auth-proxy migrate`: reads the settings of sigbit/mcp-auth-proxy and prints those of this program, with each difference.
//!
//! - [`options`] – every option of that program, and what becomes of it; [`read`] – a file with variables, a command line

mod options;
mod read;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use options::{Fate, OPTIONS};
use read::Found;

use crate::url::ExternalUrl;

/// Where providers without a rule are.
const PROVIDERS: [(&str, &str, &[&str]); 3] = [
    ("Google", "GOOGLE_CLIENT_ID", &["GOOGLE_ALLOWED_USERS", "GOOGLE_ALLOWED_WORKSPACES"]),
    ("GitHub", "GITHUB_CLIENT_ID", &["GITHUB_ALLOWED_USERS", "GITHUB_ALLOWED_ORGS"]),
    (
        "the OIDC provider",
        "OIDC_CLIENT_ID",
        &["OIDC_ALLOWED_USERS", "OIDC_ALLOWED_USERS_GLOB", "OIDC_ALLOWED_ATTRIBUTES"],
    ),
];

/// What is printed, and whether somebody has to decide something before it works.
struct Translation {
    text: String,
    has_questions: bool,
}

/// Reads `file` (`-` is standard input) and the command line `arguments`, and prints a file for `--env-file`. Returns the exit
/// code: 0 if it can be used as it is, 1 if something in it has to be decided.
pub fn run(file: Option<&str>, arguments: &[String]) -> Result<u8, String> {
    let mut found = Found::default();
    if let Some(path) = file {
        let text = match path {
            "-" => std::io::read_to_string(std::io::stdin()),
            path => std::fs::read_to_string(path),
        };
        let text = text.map_err(|e| format!("migrate: {path} can't be read: {e}"))?;
        found.read_variables(&text).map_err(|why| format!("migrate: {path}, {why}"))?;
    }
    found.read_arguments(arguments).map_err(|why| format!("migrate: {why}"))?;
    let translation = translate(&found, std::io::stdout().is_terminal());
    // A reader such as `head` may close the pipe early.
    let _ = std::io::stdout().write_all(translation.text.as_bytes());
    Ok(u8::from(translation.has_questions))
}

/// Secrets are left out if somebody may look over the user's shoulder.
fn translate(found: &Found, hides_secrets: bool) -> Translation {
    let (mut lines, mut questions) = (String::new(), Vec::new());
    for option in OPTIONS {
        let Some(value) = found.values.get(option.env) else { continue };
        match option.fate {
            Fate::Gone(why) => {
                let _ = writeln!(lines, "# {} is left out: {why}.", option.env);
                continue;
            }
            _ if option.env == "PROXY_URL" => continue,
            _ if option.env == "REPOSITORY_BACKEND" && value != "local" => {
                let _ = writeln!(
                    lines,
                    "# REPOSITORY_BACKEND={value} is left out: there is no database here. Clients register and people sign in once more."
                );
                continue;
            }
            Fate::Differs(how) => {
                let _ = writeln!(lines, "# {}: {how}.", option.env);
            }
            Fate::Same => {}
        }
        let value = if option.is_secret && hides_secrets { "…" } else { value };
        let _ = writeln!(lines, "{}={value}", option.env);
    }
    keep_addresses(found, &mut lines);
    for (title, id, rules) in PROVIDERS {
        if found.values.contains_key(id) && !rules.iter().any(|rule| found.values.contains_key(*rule)) {
            let _ = writeln!(
                lines,
                "# DECIDE: who may sign in with {title}? Without a rule, everybody with an account there could, which is refused here.\n#{}=…\n# or, if everybody may:\n#ALLOW_ANY_USER=true",
                rules[0]
            );
            questions.push(format!("who may sign in with {title}"));
        }
    }
    for name in &found.unknown {
        let _ = writeln!(lines, "# {name} is left out: it is no option of sigbit/mcp-auth-proxy.");
    }
    let server = match command_line(found) {
        // It was not asked about.
        server if server.is_empty() => "URL, or -- COMMAND, of the MCP server as before".into(),
        server => server,
    };
    let mut text = String::from(
        "# For mcp-auth-proxy, from the settings of sigbit/mcp-auth-proxy. docs/migrating.md has all differences.\n",
    );
    let _ = writeln!(
        text,
        "#   mcp-auth-proxy check --env-file THIS-FILE {server}\n#   mcp-auth-proxy --env-file THIS-FILE {server}"
    );
    if hides_secrets && OPTIONS.iter().any(|option| option.is_secret && found.values.contains_key(option.env)) {
        text.push_str(
            "# Secrets are not shown on a terminal. Let the output go to a file: … > THIS-FILE (then: chmod 600 THIS-FILE)\n",
        );
    }
    for question in &questions {
        let _ = writeln!(text, "# Still to be decided: {question}.");
    }
    Translation { text: text + &lines, has_questions: !questions.is_empty() }
}

/// Without `LISTEN`, that program listens on all addresses, also for an external URL on this machine.
fn keep_addresses(found: &Found, lines: &mut String) {
    let url = found.values.get("EXTERNAL_URL").map_or("http://localhost", String::as_str);
    let is_local = ExternalUrl::parse(url).is_ok_and(|external| external.is_loopback());
    if is_local && !found.values.contains_key("LISTEN") {
        lines.push_str("# LISTEN: the default for an external URL on this machine is to listen on this machine only; this is the default of that program.\n");
        lines.push_str("LISTEN=:80\n");
    }
}

/// The MCP server as it stands on the command line.
fn command_line(found: &Found) -> String {
    let quoted = |word: &String| match word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c)) {
        true if !word.is_empty() => word.clone(),
        _ => format!("'{}'", word.replace('\'', "'\\''")),
    };
    match found.server.as_slice() {
        [] => found.values.get("PROXY_URL").map(quoted).unwrap_or_default(),
        [url, ..] if url.starts_with("http://") || url.starts_with("https://") => quoted(url),
        command => format!("-- {}", command.iter().map(quoted).collect::<Vec<_>>().join(" ")),
    }
}

/// The table of docs/migrating.md.
#[cfg(test)]
fn markdown() -> String {
    let mut out = String::from("| option there | variable | here |\n|---|---|---|\n");
    for option in OPTIONS {
        let flag = option.flag.map(|flag| format!("`--{flag}`")).unwrap_or_default();
        let here = match option.fate {
            Fate::Same => "the same".to_string(),
            Fate::Differs(how) => format!("the same, but {how}"),
            Fate::Gone(why) => format!("left out: {why}"),
        };
        let _ = writeln!(out, "| {flag} | `{}` | {here} |", option.env);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Invocation, parse};

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    fn of(variables: &str, arguments: &str) -> Translation {
        let mut found = Found::default();
        found.read_variables(variables).unwrap();
        found.read_arguments(&words(arguments)).unwrap();
        translate(&found, false)
    }

    /// What the lines of a translation mean to this program.
    fn settings(translation: &Translation, server: &str) -> crate::flags::Settings {
        let set: Vec<(&str, &str)> =
            translation.text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once('=')).collect();
        let env = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        let read = parse(words(server).into_iter().map(Into::into), env, |_| Err(std::io::ErrorKind::NotFound.into()));
        match read {
            Ok(Invocation::Serve(settings)) => *settings,
            other => panic!("{other:?}: {}", translation.text),
        }
    }

    #[test]
    fn a_command_line_of_flags_becomes_a_file_that_this_program_takes() {
        let line = "./mcp-auth-proxy -e https://mcp.example.com --tls-accept-tos --password=secret --github-client-id id \
                    --github-client-secret s --github-allowed-orgs acme:core --trusted-proxies 10.0.0.0/8 -- npx -y server ./notes --flag";
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let translation = of("", &line);
        assert!(!translation.has_questions, "{}", translation.text);
        assert!(translation.text.contains("--env-file THIS-FILE -- npx -y server ./notes --flag\n"));
        let read = settings(&translation, "-- npx -y server ./notes --flag");
        assert_eq!(read.external_url, "https://mcp.example.com");
        assert!(read.tls_accept_tos);
        assert_eq!(read.password.as_deref(), Some("secret"));
        assert_eq!(read.given["GITHUB_ALLOWED_ORGS"], "acme:core");
    }

    #[test]
    fn variables_of_an_env_file_and_of_a_compose_file_are_read() {
        let compose = "services:\n mcp:\n  image: x\n  ports: [\"80:80\"]\n  environment:\n  - EXTERNAL_URL=https://a.example\n  - \"TLS_ACCEPT_TOS=True\"\n  PASSWORD: 'p: q'\n  NO_AUTO_TLS: yes\n";
        let mut found = Found::default();
        found.read_variables(compose).unwrap();
        let values: Vec<_> = found.values.into_iter().collect();
        let wanted = [
            ("EXTERNAL_URL", "https://a.example"),
            ("NO_AUTO_TLS", "false"),
            ("PASSWORD", "p: q"),
            ("TLS_ACCEPT_TOS", "true"),
        ];
        assert_eq!(values, wanted.map(|(name, value)| (name, value.to_string())));
        let mut found = Found::default();
        assert!(found.read_variables("EXTERNAL_URL=a\nthis is prose\n").unwrap_err().starts_with("line 2"));
    }

    #[test]
    fn what_differs_is_said_and_what_is_gone_is_left_out() {
        let text = of("REPOSITORY_BACKEND=postgres\nREPOSITORY_DSN=postgres://u:p@h/db\nJWT_PRIVATE_KEY=k\nPROXY_FORWARD_AUTHORIZATION=1", "http://upstream:8000").text;
        for name in ["REPOSITORY_BACKEND", "REPOSITORY_DSN", "JWT_PRIVATE_KEY", "PROXY_FORWARD_AUTHORIZATION"] {
            assert!(text.contains(&format!("# {name}")) && !text.contains(&format!("\n{name}=")), "{name}: {text}");
        }
        assert!(!text.contains("u:p@h"), "the secret is not repeated: {text}");
        assert!(text.contains("\nLISTEN=:80\n"), "the default external URL is that of this machine: {text}");
        assert!(!of("EXTERNAL_URL=https://a.example", "http://u:1").text.contains("\nLISTEN="));
    }

    #[test]
    fn a_provider_without_a_rule_is_a_question() {
        let translation =
            of("GOOGLE_CLIENT_ID=i\nGOOGLE_CLIENT_SECRET=s\nEXTERNAL_URL=https://a.example", "http://u:1");
        assert!(translation.has_questions && translation.text.contains("DECIDE: who may sign in with Google"));
    }

    #[test]
    fn secrets_don_t_go_to_a_terminal() {
        let mut found = Found::default();
        found.read_variables("PASSWORD=hunter2\nPROXY_HEADERS=X-Key: hunter3").unwrap();
        assert!(!translate(&found, true).text.contains("hunter"));
        assert!(translate(&found, false).text.contains("PASSWORD=hunter2"));
    }

    #[test]
    fn every_option_that_stays_is_one_of_this_program() {
        for option in OPTIONS {
            let is_known = crate::flags::FLAGS.iter().any(|flag| flag.env == option.env);
            let is_gone = matches!(option.fate, Fate::Gone(_));
            assert_eq!(is_known, !is_gone, "{}", option.env);
        }
    }

    #[test]
    fn the_table_of_options_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/migrating.md");
        let found = std::fs::read_to_string(path).unwrap();
        let (before, _) = found.split_once("\n| option there |").expect("docs/migrating.md has the table");
        let wanted = format!("{before}\n{}", markdown());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(
            found == wanted,
            "docs/migrating.md is stale: UPDATE_DOCS=1 cargo test the_table_of_options_is_up_to_date"
        );
    }
}
