//! Reads the command line and the environment.

use std::ffi::OsString;

use super::arguments::{command_named, next_argument};
use super::commands::{COMMANDS, CONTROL};
use super::flag::Flag;
use super::list::FLAGS;
use super::mistakes::{command_and_word, is_url, one_dash, suggestion, too_many, unknown_flag};
use super::own_options::OwnOptions;
use super::settings::Settings;
use super::{completions, env_file, help, man};

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    /// Run the proxy.
    Serve(Box<Settings>),
    /// Run the proxy in front of a built-in MCP server; nothing is stored.
    Demo(Box<Settings>),
    /// Read a password, print a bcrypt hash; with a name, print a line of a htpasswd file.
    HashPassword(Option<String>),
    /// Check whether the running proxy is healthy; with `true`, whether it is ready.
    Healthcheck(Box<Settings>, bool),
    /// Look at everything that serving needs; with `true`, warnings count in the exit code.
    Check(Box<Settings>, bool),
    /// Look at the public URL as clients do.
    Doctor(Box<Settings>, String, OwnOptions),
    /// Translate the settings of sigbit/mcp-auth-proxy: those of a file, and those of a command line.
    Migrate {
        /// Its path; - is standard input.
        file: Option<String>,
        /// The service of a Compose file.
        service: Option<String>,
        /// The command line.
        arguments: Vec<String>,
    },
    /// Print the JSON Schema of the servers file.
    ServersSchema,
    /// Have the running proxy do something: the words and the options of the command.
    Control(Box<Settings>, Vec<String>, OwnOptions),
    /// Print text (help, version, man page, completions) and exit.
    Print(String),
}

/// What `--version` prints: version, commit and target.
pub const VERSION: &str =
    concat!("mcp-auth-proxy ", env!("CARGO_PKG_VERSION"), " (", env!("COMMIT"), ", ", env!("TARGET"), ")\n");

/// Reads the command line and the environment of this process, as [`parse`] does.
pub fn of_process() -> Result<Invocation, String> {
    let env = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
    parse(std::env::args_os().skip(1), env, |path| std::fs::read_to_string(path))
}

/// Reads the command line and the environment. `file` reads the file that a `_FILE` variable names.
///
/// The error is one line for the terminal; it names the flag and the variable.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<String>,
    file: impl Fn(&str) -> std::io::Result<String>,
) -> Result<Invocation, String> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    // Everything after the first `--` is the server's command line, including any further `--`.
    let mut command = args.iter().position(|arg| arg == "--").map(|at| args.split_off(at)[1..].to_vec());
    if let Some(name) = args.first().and_then(|arg| arg.to_str()).and_then(one_dash) {
        return Err(format!("-{name} is written with two dashes: --{name}"));
    }
    let mut parser = lexopt::Parser::from_args(args);
    let (mut words, mut own) = (Vec::<String>::new(), OwnOptions::default());
    let mut typed: Vec<(&'static Flag, String)> = Vec::new();
    let text = |value: OsString, what: &str| value.into_string().map_err(|_| format!("{what} is not valid UTF-8"));
    while let Some(arg) = next_argument(&mut parser, &mut words)? {
        let (name, found) = match arg {
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') if command_named(&words).is_some() => {
                return Ok(Invocation::Print(command_named(&words).map(help::command).unwrap_or_default()));
            }
            lexopt::Arg::Long("help") => return Ok(Invocation::Print(help::long())),
            lexopt::Arg::Short('h') => return Ok(Invocation::Print(help::short())),
            lexopt::Arg::Long(name) if OwnOptions::find(name, &words).is_some() => {
                own.read(OwnOptions::find(name, &words), &mut parser)?;
                continue;
            }
            lexopt::Arg::Long("version") | lexopt::Arg::Short('V') => return Ok(Invocation::Print(VERSION.into())),
            lexopt::Arg::Long(name) => (format!("--{name}"), FLAGS.iter().find(|f| f.long == Some(name))),
            lexopt::Arg::Short(c) => (format!("-{c}"), FLAGS.iter().find(|f| f.short == Some(c))),
            lexopt::Arg::Value(value) => {
                let word = text(value.clone(), "an argument")?;
                let rest: Vec<OsString> = parser.raw_args().map_err(|e| e.to_string())?.as_slice().to_vec();
                if words.is_empty() && begins_command(&word, !rest.is_empty() || command.is_some()) {
                    let tail = command.take().into_iter().flat_map(|tail| [vec!["--".into()], tail].concat());
                    command = Some([value].into_iter().chain(rest).chain(tail).collect());
                    break;
                }
                words.push(word);
                continue;
            }
        };
        let Some(flag) = found else {
            return Err(unknown_flag(&name));
        };
        let value = match flag.value {
            Some(_) => match parser.optional_value() {
                Some(value) => value,
                None => separate_value(&mut parser, &name, flag)?,
            },
            None => parser.optional_value().unwrap_or_else(|| OsString::from("true")),
        };
        typed.push((flag, text(value, &name)?));
    }

    let settings = || apply(&typed, &env_file::behind(&typed, &env, &file)?, &file);
    match words.first().map(String::as_str) {
        // The environment may be that of the other program.
        Some("migrate") => migrate(&words[1..], own.get("service"), command.unwrap_or_default()),
        Some("check") => check(settings()?, words.split_off(1), command, own.has("strict")),
        _ => dispatch(settings()?, words, command, own),
    }
}

/// The command `migrate`: perhaps a file, perhaps a command line behind `--`.
fn migrate(words: &[String], service: Option<&str>, command: Vec<OsString>) -> Result<Invocation, String> {
    let arguments =
        command.into_iter().map(|word| word.into_string().map_err(|_| "migrate: an argument is not valid UTF-8"));
    let arguments: Vec<String> = arguments.collect::<Result<_, _>>()?;
    match words {
        [] if arguments.is_empty() => Err("migrate reads a file with the variables of sigbit/mcp-auth-proxy, or its command line behind --: mcp-auth-proxy migrate old.env".into()),
        [] => Ok(Invocation::Migrate { file: None, service: None, arguments }),
        [file] => {
            let (file, service) = (Some(file.clone()), service.map(String::from));
            Ok(Invocation::Migrate { file, service, arguments })
        }
        [_, extra, ..] => Err(format!("migrate takes one file, but '{extra}' follows it; a command line stands behind --")),
    }
}

/// The command `check`, which takes what serving takes.
fn check(
    settings: Settings,
    words: Vec<String>,
    command: Option<Vec<OsString>>,
    is_strict: bool,
) -> Result<Invocation, String> {
    match dispatch(settings, words, command, OwnOptions::default())? {
        Invocation::Serve(settings) => Ok(Invocation::Check(settings, is_strict)),
        _ => Err("check takes what serving takes: options, and a URL or a command behind --".into()),
    }
}

/// The settings. For each option: the flag, else the environment variable, else the default.
fn apply(
    typed: &[(&'static Flag, String)],
    env: &impl Fn(&str) -> Option<String>,
    file: &impl Fn(&str) -> std::io::Result<String>,
) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for flag in FLAGS {
        if let Some((_, value)) = typed.iter().rev().find(|(f, _)| std::ptr::eq(*f, flag)) {
            (flag.set)(&mut settings, value).map_err(|e| format!("{}: {e}", flag.name()))?;
            settings.given.insert(flag.env, value.clone());
        } else if let Some((source, value)) = from_environment(flag, env, file)? {
            (flag.set)(&mut settings, &value).map_err(|e| format!("{source}: {e}"))?;
            if value.is_empty() {
                settings.empty_lists.extend(flag.long);
            }
            settings.given.insert(flag.env, value);
        }
    }
    Ok(settings)
}

fn dispatch(
    mut settings: Settings,
    mut words: Vec<String>,
    command: Option<Vec<OsString>>,
    own: OwnOptions,
) -> Result<Invocation, String> {
    match command.as_deref() {
        None => {}
        Some([]) => return Err("the command of an MCP server is expected behind --, such as: -- npx -y server".into()),
        Some(_) if !words.is_empty() => return Err(command_and_word(&words[0])),
        // A single word after `--` may be the upstream URL instead of a command.
        Some([url]) if url.to_str().is_some_and(is_url) => words.push(url.to_string_lossy().into_owned()),
        Some(command) => {
            settings.command = command.to_vec();
            settings.upstream = None;
            return Ok(Invocation::Serve(Box::new(settings)));
        }
    }
    let rest: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    match (words.first().map(String::as_str), rest.as_slice()) {
        (Some("demo"), []) => Ok(Invocation::Demo(Box::new(settings))),
        (Some("hash-password"), []) => Ok(Invocation::HashPassword(own.get("user").map(String::from))),
        (Some(word), _) if CONTROL.contains(&word) => Ok(Invocation::Control(Box::new(settings), words, own)),
        (Some("healthcheck"), []) => Ok(Invocation::Healthcheck(Box::new(settings), own.has("ready"))),
        (Some("doctor"), [url]) => Ok(Invocation::Doctor(Box::new(settings), (*url).to_string(), own)),
        (Some("doctor"), _) => {
            Err("doctor takes one URL, that which clients are given: mcp-auth-proxy doctor https://mcp.example.com/mcp"
                .into())
        }
        (Some("servers"), ["schema"]) => Ok(Invocation::ServersSchema),
        (Some("servers"), _) => {
            Err("the command is: mcp-auth-proxy servers schema; to publish a file, write --servers FILE (SERVERS)"
                .into())
        }
        (Some("man"), []) => Ok(Invocation::Print(man::page())),
        (Some("help"), []) => Ok(Invocation::Print(help::long())),
        (Some("help"), [word]) => match COMMANDS.iter().find(|c| c.name == *word) {
            Some(command) => Ok(Invocation::Print(help::command(command))),
            None => Err(format!("there is no command '{word}'; mcp-auth-proxy --help lists them all")),
        },
        (Some("completions"), [shell]) => completions::script(shell).map(Invocation::Print),
        (Some("completions"), _) => Err("completions needs the name of a shell: bash, zsh or fish".into()),
        (Some(word), []) => {
            if !word.contains(['/', ':', '.']) {
                let hint = suggestion(word, COMMANDS.iter().map(|c| c.name)).unwrap_or_default();
                return Err(format!("'{word}' is neither a command nor a URL with http://, https:// or unix:/{hint}"));
            }
            settings.upstream = Some(word.to_string());
            Ok(Invocation::Serve(Box::new(settings)))
        }
        (None, _) => Ok(Invocation::Serve(Box::new(settings))),
        (Some(word), [extra, ..]) => Err(too_many(word, extra)),
    }
}

/// True if `word`, the first argument that is not a flag, seems to be the program of a stdio server, and the user left
/// out the `--` before it.
fn begins_command(word: &str, has_rest: bool) -> bool {
    let mut known = COMMANDS.iter().map(|c| c.name).chain(["help"]);
    if is_url(word) || word.contains(':') || known.any(|name| name == word) {
        return false;
    }
    let is_path = ["/", "./", "../"].iter().any(|start| word.starts_with(start));
    let is_name = !word.contains(['/', '.']) && suggestion(word, COMMANDS.iter().map(|c| c.name)).is_none();
    is_path || has_rest || is_name
}

/// The value of `flag` from its environment variable, or from the file that its `_FILE` variable names, preceded by the
/// name of the variable used. An empty variable counts as unset.
fn from_environment(
    flag: &Flag,
    env: &impl Fn(&str) -> Option<String>,
    file: &impl Fn(&str) -> std::io::Result<String>,
) -> Result<Option<(String, String)>, String> {
    let direct = env(flag.env).filter(|v| !v.is_empty());
    if !flag.secret && !flag.from_file {
        return Ok(direct.map(|v| (flag.env.to_string(), v)));
    }
    let variable = format!("{}_FILE", flag.env);
    let Some(path) = env(&variable).filter(|v| !v.is_empty()) else {
        return Ok(direct.map(|v| (flag.env.to_string(), v)));
    };
    if direct.is_some() {
        return Err(format!("{} and {variable} are both set; unset one of them", flag.env));
    }
    let content = file(&path).map_err(|e| format!("{variable}: can't read {path}: {e}"))?;
    let value = match flag.from_file {
        // A list may be empty: it then allows nobody.
        true => content
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
            .collect::<Vec<_>>()
            .join(","),
        false => content.trim_end_matches(['\n', '\r']).to_string(),
    };
    if value.is_empty() && !flag.from_file {
        return Err(format!("{variable}: {path} is empty"));
    }
    Ok(Some((variable, value)))
}

/// Takes the value of a flag from the next argument. If that is a flag of this program, the value is missing.
fn separate_value(parser: &mut lexopt::Parser, name: &str, flag: &Flag) -> Result<OsString, String> {
    let value = parser.value().map_err(|_| format!("{name} needs a value: {}", flag.help))?;
    let next = value.to_str().and_then(|v| v.strip_prefix("--")).map(|v| v.split('=').next().unwrap_or_default());
    match next.filter(|next| FLAGS.iter().any(|f| f.long == Some(next))) {
        Some(next) => {
            Err(format!("{name} needs a value, but --{next} follows it; if that is the value, write {name}=--{next}"))
        }
        None => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, String> {
        let env: Vec<(String, String)> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        parse(
            args.iter().map(OsString::from),
            |name| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()),
            |path| match path {
                "/run/secret" => Ok("from file\n".into()),
                "/run/empty" => Ok("\n".into()),
                _ => Err(std::io::ErrorKind::NotFound.into()),
            },
        )
    }

    fn settings(args: &[&str], env: &[(&str, &str)]) -> Settings {
        match run(args, env) {
            Ok(Invocation::Serve(s)) => *s,
            other => panic!("not a serve invocation: {other:?}"),
        }
    }

    #[test]
    fn an_id_may_begin_with_dashes() {
        for id in ["-4JkXw1cTz2mP0aQ9rB7sA", "--JkXw1cTz2mP0aQ9rB7sAbc"] {
            let read = run(&["grants", "revoke", id, "abc", id, "--json"], &[]);
            assert!(matches!(read, Ok(Invocation::Control(..))), "{read:?}");
        }
        let refused = run(&["grants", "revoke", "--no-such-flag"], &[]).unwrap_err();
        assert!(refused.contains("unknown flag"), "{refused}");
        let refused = run(&["-4JkXw1cTz2mP0aQ9rB7sA"], &[]).unwrap_err();
        assert!(refused.contains("unknown flag"), "{refused}");
    }

    #[test]
    fn every_documented_default_is_the_real_default() {
        for flag in FLAGS.iter().filter(|f| !f.default.is_empty()) {
            let mut set = Settings::default();
            (flag.set)(&mut set, flag.default).unwrap_or_else(|e| panic!("{}: {e}", flag.name()));
            assert_eq!(set, Settings::default(), "{} has another default", flag.name());
        }
    }

    #[test]
    fn names_are_unique_and_environment_names_follow_the_flag() {
        for (i, a) in FLAGS.iter().enumerate() {
            for b in &FLAGS[i + 1..] {
                assert!(a.long.is_none() || a.long != b.long);
                assert!(a.short.is_none() || a.short != b.short);
                assert_ne!(a.env, b.env);
            }
            if let Some(long) = a.long {
                assert_eq!(a.env, long.to_uppercase().replace('-', "_"));
            }
        }
    }

    #[test]
    fn the_flag_wins_over_the_environment_and_empty_counts_as_unset() {
        assert_eq!(settings(&["--listen", ":1"], &[("LISTEN", ":2")]).listen.as_deref(), Some(":1"));
        assert_eq!(settings(&[], &[("LISTEN", ":2")]).listen.as_deref(), Some(":2"));
        assert_eq!(settings(&[], &[("LISTEN", "")]).listen, None);
        assert_eq!(settings(&["-e", "http://a", "-e=http://b"], &[]).external_url, "http://b");
    }

    #[test]
    fn switches_take_four_spellings_and_no_other() {
        for (value, want) in [("1", true), ("true", true), ("0", false), ("false", false)] {
            assert_eq!(settings(&[], &[("HTTP_STREAMING_ONLY", value)]).http_streaming_only, want);
        }
        assert!(settings(&["--http-streaming-only"], &[]).http_streaming_only);
        assert!(!settings(&["--http-streaming-only=false"], &[("HTTP_STREAMING_ONLY", "1")]).http_streaming_only);
        let error = run(&[], &[("HTTP_STREAMING_ONLY", "yes")]).unwrap_err();
        assert!(error.contains("HTTP_STREAMING_ONLY") && error.contains("true"), "{error}");
    }

    #[test]
    fn every_secret_can_come_from_a_file() {
        for flag in FLAGS.iter().filter(|f| f.secret) {
            let variable = format!("{}_FILE", flag.env);
            let missing = run(&[], &[(&variable, "/nowhere")]).unwrap_err();
            assert!(missing.contains(&variable) && missing.contains("/nowhere"), "{missing}");
            let both = run(&[], &[(&variable, "/run/secret"), (flag.env, "x")]).unwrap_err();
            assert!(both.contains("both"), "{both}");
        }
        assert_eq!(settings(&[], &[("PASSWORD_FILE", "/run/secret")]).password.as_deref(), Some("from file"));
        assert!(run(&[], &[("PASSWORD_FILE", "/run/empty")]).unwrap_err().contains("empty"));
        assert_eq!(settings(&["--password", "a"], &[("PASSWORD_FILE", "/nowhere")]).password.as_deref(), Some("a"));
    }

    #[test]
    fn typos_get_a_suggestion() {
        assert!(run(&["--pasword", "x"], &[]).unwrap_err().contains("--password;"));
        assert!(run(&["demmo"], &[]).unwrap_err().contains("'demo'"));
        assert!(run(&["--no-auto-ssl"], &[]).unwrap_err().contains("unknown flag --no-auto-ssl"));
        assert!(run(&["--listen"], &[]).unwrap_err().contains("--listen needs a value"));
        assert!(run(&["http://a", "http://b"], &[]).unwrap_err().contains("one upstream URL"));
        for (typed, part) in [
            ("--header-mapping-base", "start at the claims"),
            ("--entraid-tenant-id", "OIDC_CONFIGURATION_URL"),
            ("--repository-dsn", "one file"),
            ("--password-file", "PASSWORD_FILE"),
            ("--log-level", "LOG_LEVEL"),
            ("--verbose", "LOG_LEVEL=debug"),
            ("-v", "LOG_LEVEL=debug"),
            ("--auth-hmac-secret", "AUTH_HMAC_SECRET"),
            ("-p", "--listen"),
            ("--url", "--external-url"),
            ("-external-url=http://a", "--external-url"),
        ] {
            assert!(run(&[typed, "x"], &[]).unwrap_err().contains(part), "{typed}: {:?}", run(&[typed, "x"], &[]));
        }
        let error = run(&["--password", "--no-upstream-check", "http://a"], &[]).unwrap_err();
        assert!(error.contains("--password needs a value") && error.contains("--password=--no"), "{error}");
        assert_eq!(settings(&["--password=--listen", "http://a"], &[]).password.as_deref(), Some("--listen"));
        assert!(run(&["localhost:3001"], &[]).is_ok_and(|i| matches!(i, Invocation::Serve(s) if s.command.is_empty())));
    }

    #[test]
    fn a_command_needs_no_dashes_where_it_can_be_nothing_else() {
        let command = |args: &[&str]| settings(args, &[]).command;
        assert_eq!(command(&["--listen", ":1", "npx", "-y", "server", "./"]), ["npx", "-y", "server", "./"]);
        assert_eq!(command(&["npx", "server", "--", "-x"]), ["npx", "server", "--", "-x"]);
        assert_eq!(command(&["./server"]), ["./server"]);
        assert_eq!(command(&["server.py", "--listen", ":1"]), ["server.py", "--listen", ":1"]);
        assert_eq!(settings(&["http://a", "--listen", ":1"], &[]).listen.as_deref(), Some(":1"));
    }

    #[test]
    fn an_older_name_of_the_upstream_url_is_used_where_nothing_else_is_given() {
        let env = &[("PROXY_URL", "http://old:8080")];
        assert_eq!(settings(&[], env).upstream.as_deref(), Some("http://old:8080"));
        assert_eq!(settings(&["http://new"], env).upstream.as_deref(), Some("http://new"));
        assert_eq!(settings(&["--", "npx"], env).upstream, None);
        assert!(run(&["--repository-backend", "mysql"], &[]).unwrap_err().contains("--data-path"));
        assert!(run(&["--repository-backend", "local"], &[]).is_ok());
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let command = |args: &[&str]| settings(args, &[]).command;
        assert_eq!(
            command(&["--listen", ":1", "--", "npx", "-y", "--listen", "--", "x"]),
            ["npx", "-y", "--listen", "--", "x"]
        );
        assert_eq!(command(&["--", "server"]), ["server"]);
        assert_eq!(settings(&["--", "http://a"], &[]).upstream.as_deref(), Some("http://a"));
        assert!(command(&["http://a"]).is_empty());
        assert!(run(&["--"], &[]).unwrap_err().contains("expected behind --"));
        assert!(run(&["http://a", "--", "server"], &[]).unwrap_err().contains("either"));
        assert!(run(&["demo", "--", "server"], &[]).unwrap_err().contains("either"));
    }

    #[test]
    fn commands_are_recognised() {
        assert!(matches!(run(&["demo"], &[]), Ok(Invocation::Demo(_))));
        assert!(matches!(run(&["hash-password"], &[]), Ok(Invocation::HashPassword(None))));
        for words in [&["man"][..], &["--help"], &["-h"], &["help"], &["--version"], &["completions", "zsh"]] {
            assert!(matches!(run(words, &[]), Ok(Invocation::Print(_))), "{words:?}");
        }
        assert!(run(&["completions", "tcsh"], &[]).is_err());
        assert!(
            run(&["hash-password", "secret"], &[]).is_err_and(|e| e.contains("command line") && !e.contains("secret"))
        );
        assert!(run(&["demo", "extra"], &[]).is_err_and(|e| e.contains("demo --help")));
    }

    #[test]
    fn each_command_has_a_help_of_its_own() {
        for command in COMMANDS {
            for words in [&[command.name, "--help"][..], &[command.name, "-h"], &["help", command.name]] {
                let Ok(Invocation::Print(text)) = run(words, &[]) else { panic!("{words:?}") };
                assert!(text.contains(&format!("mcp-auth-proxy {}", command.name)), "{text}");
                assert!(
                    text.contains(command.help) && text.contains(command.more) && text.lines().count() > 4,
                    "{text}"
                );
            }
        }
        assert!(run(&["help", "nonsense"], &[]).is_err_and(|e| e.contains("--help")));
    }

    #[test]
    fn a_secret_typed_as_nothing_is_refused() {
        for flag in ["--password", "--password-hash"] {
            let error = run(&[flag, ""], &[]).unwrap_err();
            assert!(error.contains(flag) && error.contains("empty"), "{error}");
        }
    }
}
