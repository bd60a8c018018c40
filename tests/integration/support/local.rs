//! The whole application in this process, without sockets: time and disk are the test's to command.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use mcp_auth_proxy::app::assemble::Services;
use mcp_auth_proxy::app::config::Config;
use mcp_auth_proxy::app::control::rotation::Secrets;
use mcp_auth_proxy::app::routes::App;
use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::core::Core;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::http::h1::head::{self};
use mcp_auth_proxy::http::{Body, Handler, Payload, Request, RequestId, Response};
use mcp_auth_proxy::login::Login;
use mcp_auth_proxy::net::client_connection::ClientConnection;
use mcp_auth_proxy::net::client_handle::ClientHandle;
use mcp_auth_proxy::net::shutdown::Shutdown;
use mcp_auth_proxy::resource::admission::{Admission, Bounds};
use mcp_auth_proxy::resource::open_streams::OpenStreams;
use mcp_auth_proxy::resource::protected::{ProtectedResource, ProtectedResources};
use mcp_auth_proxy::resource::stream_recheck;
use mcp_auth_proxy::store::Store;
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::upstream::{ForwardedIdentity, Upstream};

use super::events;
use super::proxy::PASSWORD;
use super::wire::{Reply, Transport, request};

const HOST: &str = "localhost:8080";

/// An upstream server that says who asked.
struct Echo;

impl Upstream for Echo {
    fn forward(&self, _: &mut Request<'_>, identity: &ForwardedIdentity) -> Response {
        Response::text(StatusCode::OK, identity.principal.user.to_string())
    }

    fn endpoint(&self) -> Option<&str> {
        Some("/mcp")
    }
}

/// The MCP server that echoes, which has the whole origin.
fn echo(config: &Config) -> ProtectedResource {
    ProtectedResource {
        name: String::new(),
        base: String::new(),
        urls: ProtectedResource::urls_of(&config.external.origin, "", "/mcp"),
        title: String::new(),
        description: String::new(),
        rules: None,
        is_legacy: false,
        max_requests: None,
        upstream: Arc::new(Echo),
    }
}

/// The application.
pub(crate) struct Local {
    app: App,
    pub clock: Arc<Clock>,
    pub address: IpAddr,
    /// A client at the other end of a socket, which nobody reads from.
    client: ClientHandle,
    socket: TcpStream,
}

impl Local {
    /// On `store`, with `secret`, at the time that `clock` tells.
    pub(crate) fn new(store: Box<dyn Store>, secret: &Secret, clock: Arc<Clock>) -> Result<Local, String> {
        Local::with_password(PASSWORD, store, secret, clock)
    }

    pub(crate) fn with_password(
        password: &str,
        store: Box<dyn Store>,
        secret: &Secret,
        clock: Arc<Clock>,
    ) -> Result<Local, String> {
        let settings = Settings { password: Some(password.into()), ..Settings::default() };
        Local::with_settings(settings, store, secret, clock)
    }

    pub(crate) fn with_settings(
        settings: Settings,
        store: Box<dyn Store>,
        secret: &Secret,
        clock: Arc<Clock>,
    ) -> Result<Local, String> {
        let settings = Settings { external_url: format!("http://{HOST}"), ..settings };
        events::record();
        let config = Config::build(settings)?;
        let services = Services::new(&config, &Secrets::only(secret.clone()), store, clock.clone())?;
        let bounds = Bounds { requests: 10, requests_per_user: 10, streams: 10, streams_per_user: 10 };
        services.server.resources.replace(ProtectedResources::one(echo(&config)));
        let app = App { admission: Admission::new(bounds), ..services.app(&config, None) };
        let (client, socket) = client();
        Ok(Local { app, clock, address: Ipv4Addr::LOCALHOST.into(), client, socket })
    }

    pub(crate) fn core(&self) -> &Core {
        &self.app.core
    }

    pub(crate) fn login(&self) -> &Login {
        &self.app.server.login
    }

    pub(crate) fn streams(&self) -> &OpenStreams {
        &self.app.streams
    }

    /// The client of all requests from now on has gone away.
    pub(crate) fn hang_up(&self) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// What a thread of the proxy does now and then.
    pub(crate) fn recheck_streams(&self) {
        let published = self.app.server.resources.now();
        stream_recheck::recheck_streams(self.login(), self.streams(), &published);
    }
}

/// A client of the proxy, and its end of the connection.
pub(crate) fn client() -> (ClientHandle, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connection = Arc::new(ClientConnection::plain(listener.accept().unwrap().0));
    (ClientHandle::new(connection, Shutdown::new().unwrap(), Duration::from_secs(10)), socket)
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
            client: self.client.clone(),
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
