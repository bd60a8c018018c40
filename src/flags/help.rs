//! `-h` and `--help`.

use super::{COMMANDS, FLAGS, Flag, Section};

const USAGE: &str = "\
Puts an MCP server on the internet behind OAuth 2.1.

Usage:
  mcp-auth-proxy [options] URL        publish the MCP server at URL (http://, https:// or unix:/SOCKET)
  mcp-auth-proxy [options] -- COMMAND publish the MCP server that COMMAND runs over stdio, with its arguments
";

const NOTES: &str = "
Each option can also be set in the environment; the flag wins, an empty variable counts as unset.
Secrets, and lists of who may enter, can be read from files: PASSWORD_FILE=/run/secrets/password and the like.
SIGHUP has the lists read again.

Examples:
  mcp-auth-proxy --listen 127.0.0.1:8080 --external-url http://localhost:8080 \\
      --password changeme http://127.0.0.1:3001
  mcp-auth-proxy --listen 127.0.0.1:8080 --external-url http://localhost:8080 \\
      --password changeme -- npx -y @modelcontextprotocol/server-filesystem ./
  then give http://localhost:8080/mcp to a client.
";

/// `-h`: names and first lines.
pub fn short() -> String {
    let mut out = usage();
    for section in Section::ALL.into_iter().filter(|s| *s != Section::Process) {
        out.push_str(&format!("\n{}:\n", section.title()));
        for flag in FLAGS.iter().filter(|f| f.section == section) {
            out.push_str(&format!("  {:<42} {}\n", spelling(flag), flag.help));
        }
    }
    out.push_str("\n--help tells more, with environment names and defaults.\n");
    out
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

/// `-e, --external-url URL`, or `LOG_LEVEL=…` for what exists in the environment only.
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
        assert!(help.contains("[options] URL") && help.contains("[options] -- COMMAND"));
    }
}
