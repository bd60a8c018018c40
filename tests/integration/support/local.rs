//! The whole application in this process, without sockets: time and disk are the test's to command.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::StatusCode;
use mcp_auth_proxy::admission::{Admission, Bounds};
use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::config::Config;
use mcp_auth_proxy::context::Context;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::guard::Seen;
use mcp_auth_proxy::http::head::{self};
use mcp_auth_proxy::http::{Body, Handler, Payload, Request, RequestId, Response};
use mcp_auth_proxy::net::trusted::UnnamedProxies;
use mcp_auth_proxy::routes::App;
use mcp_auth_proxy::store::Store;
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::upstream::{Origin, Upstream};

use super::proxy::PASSWORD;
use super::wire::{Reply, Transport, request};

const HOST: &str = "localhost:8080";

/// An upstream server that says who asked.
struct Echo;

impl Upstream for Echo {
    fn forward(&self, _: &mut Request<'_>, origin: &Origin) -> Response {
        Response::text(StatusCode::OK, origin.principal.user.to_string())
    }

    fn endpoint(&self) -> Option<&str> {
        Some("/mcp")
    }
}

/// The application.
pub struct Local {
    app: App,
    pub clock: Arc<Clock>,
    pub address: IpAddr,
}

impl Local {
    /// On `store`, with `secret`, at the time that `clock` tells.
    pub fn new(store: Box<dyn Store>, secret: &Secret, clock: Arc<Clock>) -> Result<Local, String> {
        Local::with_password(PASSWORD, store, secret, clock)
    }

    pub fn with_password(
        password: &str,
        store: Box<dyn Store>,
        secret: &Secret,
        clock: Arc<Clock>,
    ) -> Result<Local, String> {
        let settings = Settings { password: Some(password.into()), ..Settings::default() };
        Local::with_settings(settings, store, secret, clock)
    }

    pub fn with_settings(
        settings: Settings,
        store: Box<dyn Store>,
        secret: &Secret,
        clock: Arc<Clock>,
    ) -> Result<Local, String> {
        let settings = Settings { external_url: format!("http://{HOST}"), ..settings };
        let context =
            Context::new(Config::build(settings)?, secret, store, clock.clone()).map_err(|e| e.to_string())?;
        let context = Arc::new(context);
        let seen = Seen::start(context.state.clone()).map_err(|e| e.to_string())?;
        let bounds = Bounds { requests: 10, requests_per_user: 10, streams: 10, streams_per_user: 10 };
        let app = App {
            context,
            upstream: Arc::new(Echo),
            admission: Admission::new(bounds),
            seen,
            unnamed: UnnamedProxies::default(),
        };
        Ok(Local { app, clock, address: Ipv4Addr::LOCALHOST.into() })
    }

    pub fn context(&self) -> &Context {
        &self.app.context
    }
}

impl Transport for Local {
    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let bytes = request(method, target, HOST, headers, body);
        let head = head::parse(&bytes[..bytes.len() - body.len()], 100).unwrap();
        let request = Request {
            parts: head.parts,
            body: Body::new(body.to_vec(), None, head.framing),
            peer: self.address,
            id: RequestId::next(),
        };
        let response = self.app.handle(request);
        let headers = response.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_string())).collect();
        let mut body = Vec::new();
        match response.body {
            Payload::Bytes(bytes) => body.extend_from_slice(&bytes),
            Payload::Stream { mut reader, .. } => drop(reader.read_to_end(&mut body).unwrap()),
            Payload::Head(_) => {}
        }
        Reply { status: response.status.as_u16(), headers, body }
    }

    fn origin(&self) -> String {
        format!("http://{HOST}")
    }
}
