//! Why a request to an MCP server at a URL failed: the response to the client, and the line for the operator.

use std::io;

use ::http::StatusCode;

use super::forward::ForwardedIdentity;
use crate::http::client::ClientError;
use crate::http::{BodyError, RequestId, Response};
use crate::mcp::jsonrpc;
use crate::net::cancellation::Cancelled;
use crate::observe::metrics::{self, UpstreamError};
use crate::url::UpstreamUrl;

/// Why there is no answer to pass on.
pub(super) enum Failure {
    /// The client's body can't be read.
    Body(BodyError),
    /// The path of the client's request can't be forwarded safely.
    BadRequest(&'static str),
    ClientGone,
    Draining,
    /// Not reachable.
    Down(String),
    /// No answer in time.
    Slow(&'static str),
    /// It ended the connection without an answer.
    Closed(String),
    /// No valid answer: malformed, or an endless redirect.
    Broken(String),
    /// The upstream server answered 401: it wants credentials from the proxy.
    Unauthorized,
}

impl Failure {
    pub(super) fn of_body(error: &io::Error) -> Failure {
        Failure::Body(BodyError::of(error).unwrap_or(BodyError::Gone))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Connect(e) if Cancelled::of(&e).is_some() => ClientError::Io(e).into(),
            ClientError::Body(e) => match Cancelled::of(&e) {
                Some(Cancelled::ShuttingDown) => Failure::Draining,
                _ => Failure::of_body(&e),
            },
            ClientError::Io(e) => match (Cancelled::of(&e), e.kind()) {
                (Some(Cancelled::ClientGone), _) => Failure::ClientGone,
                (Some(Cancelled::ShuttingDown), _) => Failure::Draining,
                (_, io::ErrorKind::UnexpectedEof) => {
                    Failure::Closed("it ended the connection without an answer".into())
                }
                (_, io::ErrorKind::InvalidData) => Failure::Broken(e.to_string()),
                _ => Failure::Down(e.to_string()),
            },
            ClientError::ConnectTimeout => {
                Failure::Slow("no connection within --upstream-connect-timeout (UPSTREAM_CONNECT_TIMEOUT)")
            }
            ClientError::AnswerTimeout => {
                Failure::Slow("no answer within --upstream-response-timeout (UPSTREAM_RESPONSE_TIMEOUT)")
            }
            ClientError::UnknownHost => Failure::Down("its host name can't be resolved".into()),
            ClientError::Connect(e) => Failure::Down(e.to_string()),
            ClientError::Malformed(why) => Failure::Broken(why.into()),
        }
    }
}

/// The request and the server that a failure belongs to, for the log.
pub(super) struct Told<'t> {
    pub(super) id: RequestId,
    pub(super) identity: &'t ForwardedIdentity,
    pub(super) server: &'t str,
    pub(super) url: &'t UpstreamUrl,
}

impl Told<'_> {
    fn log(&self, level: log::Level, error: &str, message: &str) {
        let ForwardedIdentity { principal, chain, .. } = self.identity;
        log::log!(
            level, request:% = self.id, server = self.server, user:% = principal.user, client:% = principal.client, address:% = chain[0], upstream:% = self.url, error = error;
            "{message}"
        );
    }
}

/// The response to the client for a failure; also logs it for the operator.
pub(super) fn refusal(failure: &Failure, body: &[u8], told: &Told<'_>) -> Response {
    let error = match failure {
        Failure::Down(_) => Some(UpstreamError::Unreachable),
        Failure::Slow(_) => Some(UpstreamError::Timeout),
        Failure::Closed(_) => Some(UpstreamError::Closed),
        Failure::Broken(_) => Some(UpstreamError::InvalidAnswer),
        Failure::Unauthorized => Some(UpstreamError::Unauthorized),
        Failure::Body(_) | Failure::BadRequest(_) | Failure::ClientGone | Failure::Draining => None,
    };
    if let Some((error, metrics)) = error.zip(metrics::installed()) {
        metrics.upstream_failed(told.server, error);
    }
    let answer = |status, text: &str| jsonrpc::error(status, Some(body), jsonrpc::INTERNAL_ERROR, text);
    match failure {
        Failure::Body(error) => Response::text(error.status(), error.to_string()),
        Failure::BadRequest(why) => Response::text(StatusCode::BAD_REQUEST, *why),
        Failure::ClientGone => {
            told.log(log::Level::Debug, "", "the client left before the answer");
            answer(StatusCode::BAD_GATEWAY, "the client went away")
        }
        Failure::Draining => answer(StatusCode::SERVICE_UNAVAILABLE, "the proxy is stopping; try again"),
        Failure::Down(why) => {
            told.log(log::Level::Warn, why, "the upstream server can't be reached");
            answer(StatusCode::BAD_GATEWAY, "the MCP server can't be reached")
        }
        Failure::Slow(why) => {
            told.log(log::Level::Warn, why, "the upstream server is too slow");
            answer(StatusCode::GATEWAY_TIMEOUT, "the MCP server did not answer in time")
        }
        Failure::Closed(why) => {
            told.log(log::Level::Warn, why, "the upstream server gave no answer");
            answer(StatusCode::BAD_GATEWAY, "the MCP server gave no answer")
        }
        Failure::Broken(why) => {
            told.log(log::Level::Warn, why, "the upstream server's answer is broken");
            answer(StatusCode::BAD_GATEWAY, "the MCP server's answer is broken")
        }
        Failure::Unauthorized => {
            // A 401 that is passed on would send the client into an OAuth loop.
            let way_out =
                "give it its token with --proxy-bearer-token (PROXY_BEARER_TOKEN) or --proxy-headers (PROXY_HEADERS)";
            told.log(log::Level::Error, way_out, "the upstream server answered 401");
            answer(
                StatusCode::BAD_GATEWAY,
                "the MCP server refused the proxy's credentials; its operator finds the reason in the log",
            )
        }
    }
}
