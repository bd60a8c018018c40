//! The manual page, in roff.

use super::commands::COMMANDS;
use super::flag::Section;
use super::help::spelling;
use super::list::FLAGS;

/// The whole page.
pub fn page() -> String {
    let mut out = format!(
        ".TH MCP-AUTH-PROXY 1 \"\" \"mcp-auth-proxy {}\"\n\
         .SH NAME\nmcp\\-auth\\-proxy \\- put an MCP server on the internet behind OAuth 2.1\n\
         .SH SYNOPSIS\n.B mcp\\-auth\\-proxy\n[options] URL\n\
         .br\n.B mcp\\-auth\\-proxy\n[options] \\-\\- COMMAND [ARGUMENT]...\n",
        env!("CARGO_PKG_VERSION")
    );
    for command in COMMANDS {
        out.push_str(&format!(".br\n.B mcp\\-auth\\-proxy {}\n{}\n", escape(command.name), escape(command.args)));
    }
    out.push_str(
        ".SH DESCRIPTION\nStarts a proxy before the MCP server at URL, or the one that COMMAND runs over stdio. MCP clients that are given the external URL discover \
         the authorization server in it, register, and send the user to a sign\\-in and consent page; requests with a valid \
         token are passed on.\n.SH COMMANDS\n",
    );
    for command in COMMANDS {
        out.push_str(&format!(".TP\n.B {}\n{}.\n", escape(command.name), escape(command.help)));
    }
    for section in Section::ALL {
        out.push_str(&format!(".SH {}\n", section.title().to_uppercase()));
        for flag in FLAGS.iter().filter(|f| f.section == section) {
            out.push_str(&format!(".TP\n.B {}\n{}.\n", escape(&spelling(flag)), escape(flag.help)));
            if !flag.more.is_empty() {
                out.push_str(&format!("{}\n", escape(flag.more)));
            }
            if flag.long.is_some() {
                let file = if flag.secret || flag.from_file { format!(" or {}_FILE", flag.env) } else { String::new() };
                out.push_str(&format!("Environment: {}{file}.\n", flag.env));
            }
            if !flag.default.is_empty() {
                out.push_str(&format!("Default: {}.\n", escape(flag.default)));
            }
        }
    }
    out.push_str(
        ".SH EXIT STATUS\n.TP\n.B 0\nStopped by SIGTERM or SIGINT after requests were let finish.\n\
         .TP\n.B 2\nThe program could not start; one line on standard error says why.\n",
    );
    out
}

/// Escapes text for roff. A backslash becomes `\e`. `-` becomes `\-`, because a plain one may be printed as a hyphen. A
/// leading dot or apostrophe gets `\&` before it, because roff would take the line for a command.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "...");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_start_with_a_dot_are_known_requests() {
        for line in page().lines().filter(|l| l.starts_with('.')) {
            assert!([".TH ", ".SH ", ".B ", ".TP", ".br"].iter().any(|r| line.starts_with(r)), "{line}");
        }
    }
}
