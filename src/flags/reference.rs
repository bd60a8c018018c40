//! Generates `docs/configuration.md`.

use super::commands::COMMANDS;
use super::flag::Section;
use super::list::FLAGS;

/// The whole document.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Made from src/flags/list.rs: UPDATE_DOCS=1 cargo test configuration_reference -->\n\n\
         `mcp-auth-proxy [options] URL`\n\n\
         Each option can be given as a flag or in the environment; the flag wins, and an empty variable counts as unset.\n\
         Switches take `1`, `true`, `0` or `false`. Durations are `30s`, `5m`, `1h`, `30d`; sizes are bytes, `16KiB`, `16MiB`.\n\
         Every secret can also be read from a file named by the variable with `_FILE` at its end; so can the lists of who may sign in,\n\
         one entry per line. A file of variables (`--env-file`) stands behind the environment.\n\n\
         What is marked with ↻, and all files that it names, are read again on SIGHUP and by `mcp-auth-proxy reload`: all of it, or nothing if\n\
         something is wrong. Other settings that have changed need a restart, and the reload names them.\n\n\
         | command | |\n|---|---|\n",
    );
    for command in COMMANDS {
        let args = if command.args.is_empty() { String::new() } else { format!(" {}", command.args) };
        out.push_str(&format!("| `{}{}` | {} |\n", command.name, escape(&args), command.help));
    }
    for section in Section::ALL {
        out.push_str(&format!("\n## {}\n\n", section.title()));
        let process = section == Section::Process;
        out.push_str(if process {
            "| variable | default | |\n|---|---|---|\n"
        } else {
            "| flag | variable | default | |\n|---|---|---|---|\n"
        });
        for flag in FLAGS.iter().filter(|f| f.section == section) {
            let file = if flag.secret || flag.from_file { format!(", `{}_FILE`", flag.env) } else { String::new() };
            let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
            let mut more = if flag.more.is_empty() { String::new() } else { format!(" {}", escape(flag.more)) };
            if flag.is_reloaded {
                more.push_str(" ↻");
            }
            let value = flag.value.map(|v| format!(" {}", escape(v))).unwrap_or_default();
            let help = escape(flag.help);
            if let Some(long) = flag.long {
                let short = flag.short.map(|c| format!(", `-{c}`")).unwrap_or_default();
                out.push_str(&format!(
                    "| `--{long}{value}`{short} | `{}`{file} | {default} | {help}.{more} |\n",
                    flag.env
                ));
            } else {
                out.push_str(&format!("| `{}={}`{file} | {default} | {help}.{more} |\n", flag.env, value.trim()));
            }
        }
    }
    out
}

/// Escapes `|`, which ends a table cell even within a code span.
fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    #[test]
    fn configuration_reference_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, super::markdown()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == super::markdown(),
            "docs/configuration.md is stale: UPDATE_DOCS=1 cargo test configuration_reference"
        );
    }
}
