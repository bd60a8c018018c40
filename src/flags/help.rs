//! The texts of `-h`, `--help` and `COMMAND --help`.

use super::commands::{COMMANDS, CONTROL};
use super::flag::{Command, Flag, Section};
use super::list::FLAGS;

const USAGE: &str = "\
Puts an MCP server on the internet behind OAuth 2.1.

Usage:
  mcp-auth-proxy [options] URL        publish the MCP server at URL (http://, https:// or unix:/SOCKET)
  mcp-auth-proxy [options] -- COMMAND publish the MCP server that COMMAND runs over stdio, with its arguments
";

const NOTES: &str = "
Each option can also be set in the environment; the flag wins, an empty variable counts as unset.
Secrets, and lists of who may sign in, can be read from files: PASSWORD_FILE=/run/secrets/password and the like.
On SIGHUP, the lists are read again.

Examples, for this machine only; the password is asked for:
  mcp-auth-proxy --external-url http://localhost:8080 \\
      --password-hash \"$(mcp-auth-proxy hash-password)\" http://127.0.0.1:3001
  mcp-auth-proxy --external-url http://localhost:8080 \\
      --password-hash \"$(mcp-auth-proxy hash-password)\" -- npx -y @modelcontextprotocol/server-filesystem ./notes
  then give http://localhost:8080/mcp to a client.
";

const SHORT: &str = "\
Puts an MCP server on the internet behind OAuth 2.1.

  mcp-auth-proxy demo                  try it out with a built-in server
  mcp-auth-proxy [options] URL         publish the MCP server at URL
  mcp-auth-proxy [options] -- COMMAND  publish the one that COMMAND runs (stdio)
  mcp-auth-proxy doctor URL            say why clients can't connect to a server

";

/// The options that most users need, with help texts that fit on one line.
const MAIN: [(&str, &str); 10] = [
    ("external-url", "the URL for clients, without a path"),
    ("listen", "where to listen"),
    ("data-path", "where keys and state are stored (./data)"),
    ("tls-accept-tos", "obtain a certificate for that name"),
    ("no-auto-tls", "a reverse proxy in front does https"),
    ("password-hash", "from 'hash-password'; or set PASSWORD"),
    ("google-client-id", "sign in with Google; or --github-client-id"),
    ("oidc-configuration-url", "sign in with Keycloak, Entra ID, Okta …"),
    ("proxy-bearer-token", "the token that the MCP server itself wants"),
    ("trusted-proxies", "whose X-Forwarded-For is trusted"),
];

/// `-h`: one screen.
pub fn short() -> String {
    let mut out = SHORT.to_string();
    for (name, help) in MAIN {
        if let Some(flag) = FLAGS.iter().find(|f| f.long == Some(name)) {
            // Indent flags without a short form, so that all long names are aligned.
            let indent = if flag.short.is_none() { "    " } else { "" };
            let spelt = spelling(flag).replace("ADDRESS|CIDR,…", "ADDRESS");
            out.push_str(&format!("  {:<34} {help}\n", format!("{indent}{spelt}")));
        }
    }
    let is_copy = |name: &&str| matches!(*name, "backup" | "restore" | "migrate");
    let names = COMMANDS.iter().map(|c| c.name).filter(|name| !matches!(*name, "demo" | "doctor"));
    let (copies, names): (Vec<&str>, Vec<&str>) = names.partition(is_copy);
    let (running, others): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| CONTROL.contains(name));
    for (title, names) in [("At run time", running), ("Copies and moving", copies), ("Other commands", others)] {
        out.push_str(&format!("{}{title}: {}\n", if title == "At run time" { "\n" } else { "" }, names.join(", ")));
    }
    out.push_str("All options, with defaults and environment variables: --help\nA command's own: mcp-auth-proxy COMMAND --help\n");
    out
}

/// `COMMAND --help`.
pub fn command(command: &Command) -> String {
    let line = format!("mcp-auth-proxy {} {}", command.name, command.args);
    format!("{}.\n\nUsage:\n  {}\n\n{}", command.help, line.trim_end(), command.more)
}

/// `--help`: everything.
pub fn long() -> String {
    let mut out = usage();
    for section in Section::ALL {
        out.push_str(&format!("\n{}:\n", section.title()));
        for flag in FLAGS.iter().filter(|f| f.section == section) {
            out.push_str(&format!("  {}\n      {}.", spelling(flag), flag.help));
            if !flag.more.is_empty() {
                out.push_str(&format!("\n      {}", flag.more));
            }
            let mut facts = Vec::new();
            if flag.long.is_some() {
                facts.push(format!("env: {}{}", flag.env, if flag.secret || flag.from_file { "[_FILE]" } else { "" }));
            } else if flag.secret {
                facts.push(format!("or {}_FILE", flag.env));
            }
            if !flag.default.is_empty() {
                facts.push(format!("default: {}", flag.default));
            }
            if !facts.is_empty() {
                out.push_str(&format!("\n      [{}]", facts.join("; ")));
            }
            out.push('\n');
        }
    }
    out.push_str(NOTES);
    out
}

fn usage() -> String {
    let mut out = USAGE.to_string();
    for command in COMMANDS {
        let line = format!("mcp-auth-proxy {} {}", command.name, command.args);
        out.push_str(&format!("  {line:<35} {}\n", command.help));
    }
    out
}

/// `-e, --external-url URL`, or `LOG_LEVEL=…` for an option that exists in the environment only.
pub(super) fn spelling(flag: &Flag) -> String {
    let Some(long) = flag.long else {
        return format!("{}={}", flag.env, flag.value.unwrap_or_default());
    };
    let short = flag.short.map(|c| format!("-{c}, ")).unwrap_or_default();
    let value = flag.value.map(|v| format!(" {v}")).unwrap_or_default();
    format!("{short}--{long}{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_flag_variable_and_command() {
        let help = long();
        for flag in FLAGS {
            assert!(help.contains(flag.env), "{}", flag.env);
            assert!(flag.long.is_none_or(|l| help.contains(&format!("--{l}"))));
        }
        for command in COMMANDS {
            assert!(help.contains(command.name) && short().contains(command.name));
        }
        for (name, _) in MAIN {
            assert!(FLAGS.iter().any(|f| f.long == Some(name)), "{name}");
        }
        assert!(help.contains("[options] URL") && help.contains("[options] -- COMMAND"));
    }

    #[test]
    fn the_short_help_is_one_screen_of_a_terminal() {
        let text = short();
        assert!(text.lines().count() <= 24, "{}", text.lines().count());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
