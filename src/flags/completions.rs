//! Completion scripts for bash, zsh and fish.

use super::commands::COMMANDS;
use super::list::FLAGS;

/// The script for `shell`.
pub fn script(shell: &str) -> Result<String, String> {
    match shell {
        "bash" => Ok(bash()),
        "zsh" => Ok(zsh()),
        "fish" => Ok(fish()),
        _ => Err(format!("no completions for '{shell}'; there are bash, zsh and fish")),
    }
}

fn bash() -> String {
    let flags: Vec<String> = FLAGS.iter().filter_map(|f| f.long).map(|l| format!("--{l}")).collect();
    let commands: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
    format!(
        "_mcp_auth_proxy() {{\n    local cur=\"${{COMP_WORDS[COMP_CWORD]}}\" prev=\"${{COMP_WORDS[COMP_CWORD-1]}}\"\n    \
         case \"$prev\" in\n        completions) COMPREPLY=($(compgen -W 'bash zsh fish' -- \"$cur\")); return ;;\n        \
         --data-path|-d) COMPREPLY=($(compgen -d -- \"$cur\")); return ;;\n    esac\n    \
         COMPREPLY=($(compgen -W '{} --help --version {}' -- \"$cur\"))\n}}\n\
         complete -F _mcp_auth_proxy mcp-auth-proxy\n",
        flags.join(" "),
        commands.join(" ")
    )
}

fn zsh() -> String {
    let mut out = String::from("#compdef mcp-auth-proxy\n_arguments \\\n");
    for flag in FLAGS {
        let Some(long) = flag.long else { continue };
        let help = flag.help.replace('\'', "").replace('[', "(").replace(']', ")").replace(':', "\\:");
        let value = match (flag.value, long) {
            (None, _) => String::new(),
            (Some(_), "data-path") => ":directory:_files -/".into(),
            (Some(v), _) => format!(":{}:", v.to_lowercase().replace(':', " ")),
        };
        out.push_str(&format!("  '--{long}[{help}]{value}' \\\n"));
    }
    let commands: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
    out.push_str(&format!(
        "  '--help[all options]' '--version[version]' '1:command or URL:({})'\n",
        commands.join(" ")
    ));
    out
}

fn fish() -> String {
    let mut out = String::new();
    for flag in FLAGS {
        let Some(long) = flag.long else { continue };
        let short = flag.short.map(|c| format!(" -s {c}")).unwrap_or_default();
        let value = if flag.value.is_some() { " -x" } else { "" };
        let help = flag.help.replace('\'', "\\'");
        out.push_str(&format!("complete -c mcp-auth-proxy -l {long}{short}{value} -d '{help}'\n"));
    }
    for command in COMMANDS {
        out.push_str(&format!(
            "complete -c mcp-auth-proxy -n __fish_use_subcommand -f -a {} -d '{}'\n",
            command.name, command.help
        ));
    }
    out.push_str("complete -c mcp-auth-proxy -n '__fish_seen_subcommand_from completions' -f -a 'bash zsh fish'\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_knows_each_flag() {
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell).unwrap();
            for long in FLAGS.iter().filter_map(|f| f.long) {
                assert!(script.contains(long), "{shell}: {long}");
            }
        }
    }
}
