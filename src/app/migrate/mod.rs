//! `mcp-auth-proxy migrate`: reads the settings of sigbit/mcp-auth-proxy and prints those of this program, with each difference.
//!
//! - [`options`] – every option of that program, and what becomes of it; [`mod@read`] – a file with variables, a command line

mod options;
mod read;

use std::io::{IsTerminal, Read, Write as _};

use options::{Fate, OPTIONS, Setting};
use read::Found;

use crate::url::ExternalUrl;

/// Most bytes that are read of a file.
const MAX_FILE: u64 = 1 << 20;
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

/// What is printed, and what somebody has to decide before it works.
struct Translation {
    text: String,
    questions: Vec<String>,
}

/// Reads `file` (`-` is standard input; `service` names the one that is meant of a Compose file) and the command line
/// `arguments`, and prints a file for `--env-file`. Returns the exit code: 0 if it can be used as it is, 1 if something in it
/// has to be decided.
pub fn run(file: Option<&str>, service: Option<&str>, arguments: &[String]) -> Result<u8, String> {
    let mut found = match file {
        Some(path) => read(path, service)?,
        None => Found::default(),
    };
    found.read_arguments(arguments).map_err(|why| format!("migrate: {why}"))?;
    for path in std::mem::take(&mut found.files) {
        found.behind(read(&path, None)?);
    }
    let hides_secrets = std::io::stdout().is_terminal();
    let translation = translate(&found, hides_secrets);
    // A reader such as `head` may close the pipe early.
    let _ = std::io::stdout().write_all(translation.text.as_bytes());
    if !hides_secrets {
        translation.questions.iter().for_each(|question| eprintln!("still to be decided: {question}"));
    }
    Ok(u8::from(!translation.questions.is_empty()))
}

fn read(path: &str, service: Option<&str>) -> Result<Found, String> {
    let source: std::io::Result<Box<dyn Read>> = match path {
        "-" => Ok(Box::new(std::io::stdin())),
        path => std::fs::File::open(path).map(|file| Box::new(file) as Box<dyn Read>),
    };
    let text = source.and_then(|source| std::io::read_to_string(source.take(MAX_FILE)));
    let text = text.map_err(|e| format!("migrate: {path} can't be read: {e}"))?;
    let mut found = Found::default();
    found.read_file(&text, service).map_err(|why| format!("migrate: {path}, {why}"))?;
    Ok(found)
}

/// The lines of the file, and what has to be decided before it works.
#[derive(Default)]
struct Draft {
    lines: String,
    questions: Vec<String>,
}

impl Draft {
    fn say(&mut self, line: &str) {
        self.lines.push_str(line);
        self.lines.push('\n');
    }

    fn ask(&mut self, comment: &str, question: String) {
        self.say(&format!("# DECIDE: {comment}"));
        self.questions.push(question);
    }

    /// An option that is set to `value`.
    fn option(&mut self, option: &Setting, value: &str, hides_secrets: bool) {
        let name = option.env;
        match option.fate {
            Fate::Gone(why) => return self.say(&format!("# {name} is left out: {why}.")),
            // Set to no, it is no loss.
            Fate::Lost(_) if value == "false" => return,
            Fate::Lost(why) => {
                let comment = format!("{name} does not exist here: {why}.");
                return self.ask(&comment, format!("what takes the place of {name}"));
            }
            // It stands on the command line.
            _ if name == "PROXY_URL" => return,
            _ if name == "REPOSITORY_BACKEND" && value != "local" => {
                return self.say(&format!("# {name}={value} is left out: there is no database here. Clients register and people sign in once more."));
            }
            Fate::Told(how) => self.say(&format!("# {name}: {how}.")),
            Fate::Same | Fate::Differs(_) => {}
        }
        let value = if option.is_secret && hides_secrets { "…".into() } else { written(value) };
        self.say(&format!("{name}={value}"));
    }

    /// A provider without a rule lets everybody in there.
    fn provider(&mut self, title: &str, first_rule: &str) {
        let comment = format!(
            "who may sign in with {title}? Without a rule, everybody with an account there could, which is refused here."
        );
        self.ask(&comment, format!("who may sign in with {title}"));
        self.say(&format!("#{first_rule}=…\n# or, if everybody may:\n#ALLOW_ANY_USER=true"));
    }
}

/// Secrets are left out if somebody may look over the user's shoulder.
fn translate(found: &Found, hides_secrets: bool) -> Translation {
    let mut draft = Draft::default();
    for option in OPTIONS {
        if let Some(value) = found.values.get(option.env) {
            draft.option(option, value, hides_secrets);
        }
    }
    keep_addresses(found, &mut draft);
    for name in &found.broken {
        let comment =
            format!("{name} is left out: its value has line breaks or other control characters, which don't fit here.");
        draft.ask(&comment, format!("what {name} is"));
    }
    for name in found.passed_on.iter().map(|name| one_line(name)) {
        let comment = format!("{name} was passed on from the environment of docker, which is not here: set it.");
        draft.ask(&comment, format!("what {name} is"));
    }
    for name in &found.odd_switches {
        draft.say(&format!("# {name} was neither 1 nor true, which means no there."));
    }
    for (title, id, rules) in PROVIDERS {
        let has_rule = |rule: &&str| {
            found.values.get(*rule).is_some_and(|list| list.split(',').any(|entry| !entry.trim().is_empty()))
        };
        if found.values.contains_key(id) && !rules.iter().any(has_rule) {
            draft.provider(title, rules[0]);
        }
    }
    for name in &found.unknown {
        draft.say(&format!("# {} is left out: it is no option of sigbit/mcp-auth-proxy.", one_line(name)));
    }
    let has_secrets = OPTIONS.iter().any(|option| option.is_secret && found.values.contains_key(option.env));
    let head = head(&command_line(found), hides_secrets && has_secrets, &draft.questions);
    Translation { text: head + &draft.lines, questions: draft.questions }
}

/// How the file is used.
fn head(server: &str, is_missing_secrets: bool, questions: &[String]) -> String {
    // It was not asked about the server.
    let server = if server.is_empty() { "URL, or -- COMMAND, of the MCP server as before" } else { server };
    let mut head = format!(
        "# For mcp-auth-proxy, from the settings of sigbit/mcp-auth-proxy. docs/migrating.md has all differences.\n\
         #   mcp-auth-proxy check --env-file THIS-FILE {server}\n#   mcp-auth-proxy --env-file THIS-FILE {server}\n"
    );
    if is_missing_secrets {
        head.push_str("# Secrets are not shown on a terminal. Let the output go to a file: … > THIS-FILE (then: chmod 600 THIS-FILE)\n");
    }
    questions.iter().for_each(|question| head.push_str(&format!("# Still to be decided: {question}.\n")));
    head
}

/// A value as `--env-file` reads it back: without blanks at its ends, and without quotes around it.
fn written(value: &str) -> String {
    let is_quoted = ['"', '\''].iter().any(|quote| value.starts_with(*quote) && value.ends_with(*quote));
    if is_quoted || value != value.trim() { format!("\"{value}\"") } else { value.to_string() }
}

/// A stranger's text in a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect()
}

/// Without `LISTEN`, that program listens on all addresses, also for an external URL on this machine.
fn keep_addresses(found: &Found, draft: &mut Draft) {
    let url = found.values.get("EXTERNAL_URL").map_or("http://localhost", String::as_str);
    let is_local = ExternalUrl::parse(url).is_ok_and(|external| external.is_loopback());
    if is_local && !found.values.contains_key("LISTEN") {
        draft.say("# LISTEN: the default for an external URL on this machine is to listen on this machine only; this is the default of that program.");
        draft.say("LISTEN=:80");
    }
}

/// The MCP server as it stands on the command line.
fn command_line(found: &Found) -> String {
    let quoted = |word: &String| match word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c)) {
        true if !word.is_empty() => word.clone(),
        _ => format!("'{}'", one_line(word).replace('\'', "'\\''")),
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
    use std::fmt::Write as _;

    let mut out = String::from("| option there | variable | here |\n|---|---|---|\n");
    for option in OPTIONS {
        let flag = option.flag.map(|flag| format!("`--{flag}`")).unwrap_or_default();
        let here = match option.fate {
            Fate::Same => "the same".to_string(),
            Fate::Differs(how) | Fate::Told(how) => format!("the same, but {how}"),
            Fate::Gone(why) | Fate::Lost(why) => format!("left out: {why}"),
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
        found.read_file(variables, None).unwrap();
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
        assert!(translation.questions.is_empty(), "{}", translation.text);
        assert!(translation.text.contains("--env-file THIS-FILE -- npx -y server ./notes --flag\n"));
        let read = settings(&translation, "-- npx -y server ./notes --flag");
        assert_eq!(read.external_url, "https://mcp.example.com");
        assert!(read.tls_accept_tos);
        assert_eq!(read.password.as_deref(), Some("secret"));
        assert_eq!(read.given["GITHUB_ALLOWED_ORGS"], "acme:core");
    }

    #[test]
    fn variables_are_read_as_docker_reads_them() {
        let mut found = Found::default();
        let text = "# comment\nexport EXTERNAL_URL='https://a.example'\nTLS_ACCEPT_TOS=True\nNO_AUTO_TLS=yes\nPASSWORD=a=b # c\r\nLISTEN=\n";
        found.read_file(text, None).unwrap();
        let values: Vec<_> = found.values.into_iter().collect();
        let wanted = [
            ("EXTERNAL_URL", "https://a.example"),
            ("NO_AUTO_TLS", "false"),
            ("PASSWORD", "a=b # c"),
            ("TLS_ACCEPT_TOS", "true"),
        ];
        assert_eq!(values, wanted.map(|(name, value)| (name, value.to_string())));
        assert_eq!(found.odd_switches, ["NO_AUTO_TLS"]);
        assert!(Found::default().read_file("EXTERNAL_URL=a\nthis is prose\n", None).unwrap_err().starts_with("line 2"));
    }

    #[test]
    fn a_compose_file_is_read_as_compose_itself_resolves_it() {
        let compose = r#"{"services": {
            "db": {"image": "postgres", "environment": {"PASSWORD": "adminpw"}},
            "mcp": {"image": "ghcr.io/sigbit/mcp-auth-proxy:latest", "command": ["--tls-accept-tos", "--", "npx", "-y", "server", "./"],
                    "environment": {"EXTERNAL_URL": "https://a.example", "PASSWORD": "p$$w", "NO_AUTO_TLS": null}}}}"#;
        let mut found = Found::default();
        found.read_file(compose, None).unwrap();
        let text = translate(&found, false).text;
        assert!(text.contains("\nPASSWORD=p$w\n") && text.contains("\nTLS_ACCEPT_TOS=true\n"), "{text}");
        assert!(text.contains("-- npx -y server ./\n") && !text.contains("adminpw"), "{text}");
        let two = r#"{"services": {"a": {"image": "mcp-auth-proxy", "environment": {"PASSWORD": "one"}}, "b": {"image": "mcp-auth-proxy", "environment": {"PASSWORD": "two"}}}}"#;
        assert!(Found::default().read_file(two, None).unwrap_err().contains("--service, of a, b"));
        let mut found = Found::default();
        found.read_file(two, Some("b")).unwrap();
        assert_eq!(found.values["PASSWORD"], "two");
        let yaml = "services:\n  mcp:\n    environment:\n      - PASSWORD=x\n";
        assert!(Found::default().read_file(yaml, None).unwrap_err().contains("docker compose config --format json"));
        assert!(
            Found::default()
                .read_file(r#"{"services": {"db": {"image": "postgres"}}}"#, None)
                .unwrap_err()
                .contains("db")
        );
    }

    #[test]
    fn a_value_can_t_become_another_line_or_lose_its_quotes() {
        let compose = serde_json::json!({"services": {"mcp": {"image": "mcp-auth-proxy", "environment": {
            "PASSWORD": "a\nALLOW_ANY_USER=true", "PROXY_BEARER_TOKEN": "\"quoted\"", "OIDC_PROVIDER_NAME": " Corp ", "X\nALLOW_ANY_USER": "true"}}}});
        let mut found = Found::default();
        found.read_file(&compose.to_string(), None).unwrap();
        found.read_arguments(&["npx".into(), "a\nALLOW_ANY_USER=true".into()]).unwrap();
        let translation = translate(&found, false);
        let lines: Vec<&str> = translation.text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.iter().all(|line| !line.starts_with("ALLOW")), "{lines:?}");
        assert!(
            lines.contains(&"PROXY_BEARER_TOKEN=\"\"quoted\"\"") && lines.contains(&"OIDC_PROVIDER_NAME=\" Corp \""),
            "{lines:?}"
        );
        assert!(!translation.questions.is_empty());
    }

    #[test]
    fn flags_are_read_as_that_program_reads_them() {
        let text = of("", "sudo -E mcp-auth-proxy --no-auto-tls=t --tls-accept-tos=false -l :80 http://u:1").text;
        for line in ["NO_AUTO_TLS=true", "TLS_ACCEPT_TOS=false"] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
        assert!(text.contains("# -l is left out") && !text.contains("sudo"), "{text}");
        let empty = of("GOOGLE_CLIENT_ID=i\nGOOGLE_ALLOWED_USERS=,\nEXTERNAL_URL=https://a.example", "http://u:1");
        assert!(!empty.questions.is_empty(), "{}", empty.text);
        let line =
            "docker run -e PASSWORD --env-file a.env --env-file=b.env -eTLS_ACCEPT_TOS=1 x/mcp-auth-proxy http://u:1";
        let mut found = Found::default();
        found.read_arguments(&words(line)).unwrap();
        assert_eq!((found.files.join(" "), found.passed_on.join(" ")), ("a.env b.env".into(), "PASSWORD".into()));
        let mut file = Found::default();
        file.read_file("TLS_ACCEPT_TOS=0\nEXTERNAL_URL=https://a.example\n", None).unwrap();
        found.behind(file);
        let translation = translate(&found, false);
        assert!(translation.text.contains("\nTLS_ACCEPT_TOS=true\n"), "-e comes before the file: {}", translation.text);
        assert!(translation.questions.iter().any(|question| question.contains("PASSWORD")), "{}", translation.text);
    }

    #[test]
    fn a_docker_command_is_read_around_the_name_of_the_image() {
        let text = of("", "docker run --rm -p 80:80 -e EXTERNAL_URL=https://a.example --env PASSWORD=x --env=TLS_ACCEPT_TOS=1 -v ./data:/data ghcr.io/sigbit/mcp-auth-proxy:latest npx -y server ./").text;
        for line in ["EXTERNAL_URL=https://a.example", "PASSWORD=x", "TLS_ACCEPT_TOS=true"] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
        assert!(text.contains("-- npx -y server ./\n") && !text.contains("--rm"), "{text}");
    }

    #[test]
    fn what_differs_is_said_and_what_is_gone_is_left_out() {
        let text = of("REPOSITORY_BACKEND=postgres\nREPOSITORY_DSN=postgres://u:p@h/db\nJWT_PRIVATE_KEY=k\nPROXY_FORWARD_AUTHORIZATION=1", "http://upstream:8000").text;
        for name in ["REPOSITORY_BACKEND", "REPOSITORY_DSN", "JWT_PRIVATE_KEY", "DECIDE: PROXY_FORWARD_AUTHORIZATION"] {
            assert!(text.contains(&format!("# {name}")) && !text.contains(&format!("\n{name}=")), "{name}: {text}");
        }
        let harmless = of("PROXY_FORWARD_AUTHORIZATION=false\nEXTERNAL_URL=https://a.example", "http://u:1");
        assert!(harmless.questions.is_empty() && !harmless.text.contains("FORWARD"), "{}", harmless.text);
        assert!(!text.contains("u:p@h"), "the secret is not repeated: {text}");
        assert!(text.contains("\nLISTEN=:80\n"), "the default external URL is that of this machine: {text}");
        assert!(!of("EXTERNAL_URL=https://a.example", "http://u:1").text.contains("\nLISTEN="));
    }

    #[test]
    fn a_provider_without_a_rule_is_a_question() {
        let translation =
            of("GOOGLE_CLIENT_ID=i\nGOOGLE_CLIENT_SECRET=s\nEXTERNAL_URL=https://a.example", "http://u:1");
        assert!(!translation.questions.is_empty() && translation.text.contains("DECIDE: who may sign in with Google"));
    }

    #[test]
    fn secrets_don_t_go_to_a_terminal() {
        let mut found = Found::default();
        found.read_file("PASSWORD=hunter2\nPROXY_HEADERS=X-Key: hunter3", None).unwrap();
        assert!(!translate(&found, true).text.contains("hunter"));
        assert!(translate(&found, false).text.contains("PASSWORD=hunter2"));
    }

    #[test]
    fn every_option_that_stays_is_one_of_this_program() {
        for option in OPTIONS {
            let is_known = crate::flags::FLAGS.iter().any(|flag| flag.env == option.env);
            let is_gone = matches!(option.fate, Fate::Gone(_) | Fate::Lost(_));
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
