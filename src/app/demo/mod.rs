//! `mcp-auth-proxy demo`: runs the proxy in front of a small stdio server, which is the same binary. The state, the
//! secret and the password are in memory only, so nothing remains after it ends.

pub mod server;

use std::io::Write;

use std::sync::Arc;

use crate::app::config::Config;
use crate::app::control::rotation::Secrets;
use crate::app::listen::{self, PassedSockets, Ports};
use crate::app::{assemble, serve};
use crate::clock::Clock;
use crate::encoding::base64url;
use crate::flags::Settings;
use crate::http::server::ListeningSocket;
use crate::store::embedded::EmbeddedStore;
use crate::tokens::{Secret, random};
use crate::upstream::stdio::self_exec::own_program;

/// Default listen address of the demo. If the port is in use, the demo takes any free one.
const LISTEN: &str = "127.0.0.1:8080";
const ANY_PORT: &str = "127.0.0.1:0";

/// Runs the demo until SIGTERM or SIGINT.
pub fn run(mut settings: Settings) -> Result<(), String> {
    serve::start_log(&settings);
    let stop = serve::stop_signal()?;
    let defaults = Settings::default();
    // A user who tries the demo has no certificate.
    settings.no_auto_tls = true;
    let listener = if settings.listen.is_none() {
        settings.listen = Some(LISTEN.into());
        listen(&settings).or_else(|_| {
            settings.listen = Some(ANY_PORT.into());
            listen(&settings)
        })?
    } else {
        listen(&settings)?
    };
    let port = listener.local_addr().map_err(|e| format!("the port is not known: {e}"))?.port();
    if settings.external_url == defaults.external_url {
        settings.external_url = format!("http://localhost:{port}");
    }
    let given = settings.password.is_some() || settings.password_hash.is_some();
    let password = settings.password.clone().unwrap_or_else(|| base64url(random::<9>()));
    if !given {
        settings.password = Some(password.clone());
    }
    settings.command = vec![own_program().into(), server::COMMAND.into()];
    let mut config = Config::build(settings)?;
    config.is_kept = false;
    let origin = config.external.origin.clone();
    let shutdown = serve::new_shutdown()?;
    let store = EmbeddedStore::in_memory().map_err(|e| format!("no state could be made: {e:?}"))?;
    let server = assemble::build(
        config,
        Secrets::only(Secret::generate()),
        Box::new(store),
        Arc::new(Clock::system()),
        Ports { plain: listener, tls: None, metrics: None },
        &shutdown,
    )?;
    let shown = if given { "the one that you gave" } else { password.as_str() };
    let _ = std::io::stdout().write_all(welcome(&origin, shown).as_bytes());
    server(&stop)
}

fn listen(settings: &Settings) -> Result<ListeningSocket, String> {
    let at = Config::build(settings.clone())?.listen;
    listen::listen("--listen (LISTEN)", at, &mut PassedSockets::default())
}

/// The text that says how to connect each client.
fn welcome(origin: &str, password: &str) -> String {
    let url = format!("{origin}/mcp");
    format!(
        r#"
  A small MCP server is running behind mcp-auth-proxy.

    URL       {url}
    Password  {password}

  Connect a client, and sign in on the page that it opens:

    Claude Code   claude mcp add --transport http demo {url}
    VS Code       code --add-mcp '{{"name":"demo","type":"http","url":"{url}"}}'
    Cursor        in ~/.cursor/mcp.json: {{"mcpServers":{{"demo":{{"url":"{url}"}}}}}}
    Gemini CLI    gemini mcp add --transport http demo {url}
    Codex         codex mcp add demo --url {url}
    Inspector     npx @modelcontextprotocol/inspector --transport http --server-url {url}

  Claude and ChatGPT on the web reach servers with a public https address only: add the URL there as a connector.

  Ctrl-C ends the demo; nothing of it is kept.

"#
    )
}
