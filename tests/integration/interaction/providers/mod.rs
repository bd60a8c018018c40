//! Sign-in at providers.

mod again;
mod github;
mod program;
mod sign_in;

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;

use mcp_auth_proxy::app::config::providers::configure_anew;
use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::http::{Payload, Response};
use mcp_auth_proxy::identity::Principal;
use mcp_auth_proxy::net::client_handle::ClientHandle;
use mcp_auth_proxy::store::embedded::EmbeddedStore;
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::tokens::access::AccessToken;

use crate::support::flow::{Browser, Client, Tokens, hidden, query, tokens};
use crate::support::idp::{CLIENT_ID, CLIENT_SECRET, FakeOidc};
use crate::support::local::{Local, client};
use crate::support::wire::{Reply, Transport};

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// The application before an OpenID Connect provider; `change` adds the rules.
struct Provided {
    app: Local,
    idp: FakeOidc,
    clock: Arc<Clock>,
    settings: Settings,
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|i| i.to_string()).collect()
}

fn provided(change: impl FnOnce(&mut Settings)) -> Provided {
    let clock = Arc::new(Clock::manual(NOW));
    let of_idp = clock.clone();
    let idp = FakeOidc::start(move || of_idp.now());
    let mut settings = Settings {
        oidc_configuration_url: Some(idp.configuration_url()),
        oidc_client_id: Some(CLIENT_ID.into()),
        oidc_client_secret: Some(CLIENT_SECRET.into()),
        oidc_provider_name: "Example ID".into(),
        ..Settings::default()
    };
    change(&mut settings);
    let store = Box::new(EmbeddedStore::in_memory().unwrap());
    let app = Local::with_settings(settings.clone(), store, &Secret::generate(), clock.clone()).unwrap();
    Provided { app, idp, clock, settings }
}

fn for_alice() -> Provided {
    provided(|s| s.oidc_allowed_users = strings(&["ALICE@example.com"]))
}

/// Presses the provider's button on `page`; the URL that the browser is sent to.
fn choose<T: Transport>(browser: &Browser<'_, T>, page: &Reply, provider: &str) -> String {
    assert!(page.text().contains(&format!("value=\"{provider}\"")), "{}", page.text());
    let request = hidden(page, "request");
    let hop = browser.post("/.auth/login", &[("request", &request), ("provider", provider)]);
    assert_eq!(hop.status, 200, "{}", hop.text());
    hop.header("refresh").unwrap().strip_prefix("0;url=").unwrap().to_string()
}

fn come_back<T: Transport>(browser: &Browser<'_, T>, provider: &str, query: &[(String, String)]) -> Reply {
    let pairs: Vec<(&str, &str)> = query.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    browser.get(&format!("/.auth/{provider}/callback?{}", crate::support::flow::encode(&pairs)))
}

impl Provided {
    /// A client asks, the person signs in at the provider; what the browser sees then.
    fn sign_in(&self, client: &Client<'_, Local>) -> Reply {
        let browser = Browser::new(&self.app);
        let page = browser.get(&client.authorize(&[]));
        let url = choose(&browser, &page, "oidc");
        come_back(&browser, "oidc", &self.idp.authorize(&url))
    }

    /// How often the provider's token endpoint was asked.
    fn token_requests(&self) -> usize {
        self.idp.server.received().iter().filter(|r| r.target == "/token").count()
    }

    fn replace_rules(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.clone();
        change(&mut settings);
        self.app.login().providers.replace_rules(&configure_anew(&settings).unwrap());
        self.app.recheck_streams();
    }

    fn tokens(&self, client: &Client<'_, Local>) -> Tokens {
        let reply = self.sign_in(client);
        assert_eq!(reply.status, 303, "{}", reply.text());
        let code = query(reply.header("location").unwrap()).remove("code").unwrap();
        tokens(&client.redeem(&code))
    }
}

/// What keeps a stream of the token's holder open, and the client's end of its connection.
fn open_stream(app: &Local, access: &str) -> ((Response, ClientHandle), TcpStream) {
    let token = AccessToken::verify(access, &app.core().keys, app.core().now()).unwrap();
    let principal = Principal {
        user: token.sub,
        email: None,
        client: token.client_id,
        grant: token.grant,
        expires_at: token.exp,
        person: None,
    };
    let (client, socket) = client();
    socket.set_nonblocking(true).unwrap();
    let stream = Response {
        body: Payload::Stream { reader: Box::new(std::io::empty()), length: None },
        ..Response::new(http::StatusCode::OK)
    };
    ((app.streams().attach(stream, "", true, &principal, &client), client), socket)
}

fn is_cut(mut socket: &TcpStream) -> bool {
    matches!(socket.read(&mut [0]), Ok(0))
}
