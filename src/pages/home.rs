//! The page of the house: what this server is, and for whoever is signed in, the MCP servers and how to add them to a client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::consent::ServerCard;
use super::layout::page;
use super::site::Site;
use super::text::{display_name, display_text, display_user};
use super::words::{self, fill, fill_plain};
use crate::http::Response;
use crate::identity::User;

/// For a person who opens the server in a browser and is not signed in.
pub fn welcome(site: &Site) -> Response {
    let body = html! {
        h1 { (fill_plain(words::MCP_SERVERS_OF, &[("site", site.title())])) }
        p { (fill(words::WHAT_IT_IS, &[("site", html! { strong { (site.title()) } })])) }
        p { (words::SIGN_IN_TO_SEE) }
        p .buttons { a .button .primary href="/.auth/login" { (words::SIGN_IN) } }
    };
    page(site, None, StatusCode::OK, words::MCP_SERVERS_TITLE, None, body)
}

/// For a person who is signed in: a card for each server that the person may use. `form` is the signed value for signing out.
pub fn home(site: &Site, servers: &[ServerCard], user: &User, form: &str) -> Response {
    let body = html! {
        h1 { (words::SIGNED_IN) }
        @if servers.is_empty() { p { (words::NO_SERVER) } }
        @else {
            p { (words::GIVE_URL) }
            @for server in servers { (card(site, server)) }
            p .soft { (words::IN_CLAUDE) }
        }
        form method="post" action="/.auth/logout" {
            input type="hidden" name="form" value=(form);
            p .soft { (fill(words::SIGNED_IN_HERE, &[("user", html! { strong { (display_user(user)) } })])) }
            div .buttons {
                a .button href="/.auth/account" { (words::APPLICATIONS_WITH_ACCESS) }
                button type="submit" { (words::SIGN_OUT) }
            }
        }
    };
    page(site, None, StatusCode::OK, words::SIGNED_IN_TITLE, None, body)
}

fn card(site: &Site, server: &ServerCard) -> Markup {
    let title = if server.title.is_empty() { site.title() } else { server.title };
    // Made of configured names only, never of what a server says of itself.
    let name = if server.name.is_empty() { name_of_host(&site.external.host) } else { server.name.to_string() };
    let url = server.url;
    html! {
        section .card {
            h2 { (display_name(title)) }
            @if !server.description.is_empty() { p { (display_text(&server.description)) } }
            @if server.is_down { p .note { (words::DID_NOT_ANSWER) } }
            p { code .url { (url) } }
            p .buttons {
                a .button href=(cursor_link(&name, url)) { (words::ADD_TO_CURSOR) }
                a .button href=(vscode_link(&name, url)) { (words::ADD_TO_VSCODE) }
            }
            details {
                summary { (words::COMMANDS_FOR) }
                p { code .url { "claude mcp add --transport http " (name) " " (url) } }
                p { code .url { "codex mcp add " (name) " --url " (url) } }
                p { code .url { "gemini mcp add --transport http " (name) " " (url) } }
            }
        }
    }
}

/// The first label of a host, as a name for clients.
fn name_of_host(host: &str) -> String {
    let label = host.split('.').next().unwrap_or_default();
    let plain: String = label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    if plain.is_empty() { "mcp".into() } else { plain }
}

fn cursor_link(name: &str, url: &str) -> String {
    let config = STANDARD.encode(json!({ "url": url }).to_string());
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    format!("cursor://anysphere.cursor-deeplink/mcp/install?name={}&config={}", encode(name), encode(&config))
}

fn vscode_link(name: &str, url: &str) -> String {
    let config = json!({ "name": name, "type": "http", "url": url }).to_string();
    format!("vscode:mcp/install?{}", utf8_percent_encode(&config, NON_ALPHANUMERIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_links_carry_name_and_url_and_nothing_else() {
        let link = cursor_link("files", "https://mcp.example.com/files/mcp");
        let config = link.split("config=").nth(1).unwrap();
        let config = percent_encoding::percent_decode_str(config).decode_utf8().unwrap();
        assert_eq!(STANDARD.decode(&*config).unwrap(), br#"{"url":"https://mcp.example.com/files/mcp"}"#);
        assert!(link.starts_with("cursor://anysphere.cursor-deeplink/mcp/install?name=files&config="));
        let link = vscode_link("files", "https://mcp.example.com/files/mcp");
        let config = percent_encoding::percent_decode_str(link.strip_prefix("vscode:mcp/install?").unwrap());
        let wanted = r#"{"name":"files","type":"http","url":"https://mcp.example.com/files/mcp"}"#;
        assert_eq!(config.decode_utf8().unwrap(), wanted);
        assert_eq!(name_of_host("mcp.example.com"), "mcp");
        assert_eq!(name_of_host("[::1]"), "1");
    }
}
