//! All metrics.
//!
//! Label sets are bounded: a label has the name of a configured server, or one of a fixed list of words.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{
    GRANT_TYPES, LIMITS, OfConnections, OfError, OfEvent, OfLog, OfServer, OfSignIn, OfStore, OfThrottle, OfTokens,
    SIGN_INS,
};
use super::request_series::RequestSeries;
use crate::lock::Unpoisoned;
use crate::observe::events::KINDS;

/// Upper bounds of the buckets for durations, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Why an MCP server gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// It could not be reached, or not be started.
    Unreachable,
    /// It did not answer in time.
    Timeout,
    /// It ended the connection without an answer.
    Closed,
    /// Its answer was no valid HTTP.
    InvalidAnswer,
    /// It refused the proxy's credentials.
    Unauthorized,
    /// Its process ended without being asked to.
    Exited,
}

impl UpstreamError {
    const ALL: [UpstreamError; 6] = [
        UpstreamError::Unreachable,
        UpstreamError::Timeout,
        UpstreamError::Closed,
        UpstreamError::InvalidAnswer,
        UpstreamError::Unauthorized,
        UpstreamError::Exited,
    ];

    fn label(self) -> &'static str {
        match self {
            UpstreamError::Unreachable => "unreachable",
            UpstreamError::Timeout => "timeout",
            UpstreamError::Closed => "closed",
            UpstreamError::InvalidAnswer => "invalid_answer",
            UpstreamError::Unauthorized => "unauthorized",
            UpstreamError::Exited => "exited",
        }
    }
}

/// What is done with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// One row is read.
    Read,
    /// A transaction, until it is on disk.
    Write,
}

static INSTALLED: OnceLock<Arc<Metrics>> = OnceLock::new();

/// Makes `metrics` those of the process, for what is counted deep in it. Only the first call has an effect.
pub fn install(metrics: Arc<Metrics>) {
    let _ = INSTALLED.set(metrics);
}

/// The metrics of the process, if anybody wants them.
pub fn installed() -> Option<&'static Metrics> {
    INSTALLED.get().map(|metrics| &**metrics)
}

/// A request that has ended.
pub struct Ended<'r> {
    /// The MCP server that answered it; `None` for requests that reached none.
    pub server: Option<&'r str>,
    /// The MCP method, if it is known.
    pub method: Option<&'r str>,
    /// HTTP status.
    pub status: u16,
    /// How long it took.
    pub duration: Duration,
    /// Was it an event stream? Its duration says nothing about speed.
    pub is_stream: bool,
}

/// The state of the process when the metrics are read.
#[derive(Default)]
pub struct Snapshot {
    /// Open event streams.
    pub streams: usize,
    /// The MCP servers.
    pub servers: Vec<ServerSnapshot>,
    /// Connections that wait for a request, that have begun one or wait until an answer is read, and whose request is
    /// being answered.
    pub connections: [usize; 3],
    /// Each log beside the main one, and whether it can be written.
    pub logs: Vec<(&'static str, bool)>,
    /// When the certificate expires, in seconds since 1970.
    pub certificate_expires_at: Option<u64>,
}

/// The state of an MCP server.
#[derive(Clone, Debug, Default)]
pub struct ServerSnapshot {
    /// Its name in the servers file.
    pub name: String,
    /// Did it answer the last time that it was asked?
    pub is_up: bool,
    /// Its processes.
    pub children: usize,
    /// MCP sessions that the proxy keeps for it.
    pub sessions: usize,
}

/// All metrics.
pub struct Metrics {
    registry: Registry,
    requests: RequestSeries,
    in_flight: Gauge,
    streams: Gauge,
    servers_up: Family<OfServer, Gauge>,
    children: Family<OfServer, Gauge>,
    sessions: Family<OfServer, Gauge>,
    connections: Family<OfConnections, Gauge>,
    logs: Family<OfLog, Gauge>,
    pub(super) events: Family<OfEvent, Counter>,
    pub(super) sign_ins: Family<OfSignIn, Counter>,
    pub(super) tokens: Family<OfTokens, Counter>,
    pub(super) reuse: Counter,
    pub(super) throttled: Family<OfThrottle, Counter>,
    upstream_errors: Family<OfError, Counter>,
    store: Family<OfStore, Histogram>,
    certificate: Gauge<f64, AtomicU64>,
    /// Those whose gauges were written last, so that a server that is gone goes from here, too.
    reading: Mutex<Vec<OfServer>>,
}

impl Metrics {
    /// Nothing has happened yet. `version` is that of the program.
    pub fn new(version: &str, has_certificate: bool) -> Metrics {
        let of_buckets: fn() -> Histogram = || Histogram::new(BUCKETS);
        let mut metrics = Metrics {
            requests: RequestSeries::new(of_buckets),
            in_flight: Gauge::default(),
            streams: Gauge::default(),
            servers_up: Family::default(),
            children: Family::default(),
            sessions: Family::default(),
            connections: Family::default(),
            logs: Family::default(),
            events: Family::default(),
            sign_ins: Family::default(),
            tokens: Family::default(),
            reuse: Counter::default(),
            throttled: Family::default(),
            upstream_errors: Family::default(),
            store: Family::new_with_constructor(of_buckets),
            certificate: Gauge::default(),
            reading: Mutex::default(),
            registry: Registry::with_prefix("mcp_auth_proxy"),
        };
        metrics.begin_with_zero();
        metrics.register_requests();
        metrics.register_events();
        metrics.register_state();
        let version = Info::new(vec![("version", version.to_string())]);
        metrics.registry.register("build", "The program", version);
        if has_certificate {
            let (help, gauge) = ("When the certificate in use expires, since 1970", metrics.certificate.clone());
            metrics.registry.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, gauge);
        }
        metrics
    }

    /// Of a counter that begins when something happens, the first time can't be seen as an increase.
    fn begin_with_zero(&self) {
        for kind in KINDS {
            let _ = self.events.get_or_create(&OfEvent { event: kind.definition().name });
        }
        for (_, result) in SIGN_INS {
            let _ = self.sign_ins.get_or_create(&OfSignIn { result });
        }
        for (_, grant_type) in GRANT_TYPES {
            let _ = self.tokens.get_or_create(&OfTokens { grant_type });
        }
        for limit in LIMITS {
            let _ = self.throttled.get_or_create(&OfThrottle { limit });
        }
    }

    fn register_requests(&mut self) {
        let registry = &mut self.registry;
        let help = "Requests that have ended, by server, MCP method and class of HTTP status";
        registry.register("requests", help, self.requests.requests.clone());
        let help = "Time from a request's head to the end of its answer, without event streams";
        registry.register_with_unit("request_duration", help, Unit::Seconds, self.requests.durations.clone());
        let help = "Requests that are being answered, streams too";
        registry.register("requests_in_flight", help, self.in_flight.clone());
        registry.register("streams", "Event streams that are open", self.streams.clone());
        let help = "Requests to an MCP server that it gave no answer to, by why";
        registry.register("upstream_errors", help, self.upstream_errors.clone());
    }

    fn register_events(&mut self) {
        let registry = &mut self.registry;
        registry.register("events", "Events that matter for security", self.events.clone());
        registry.register("sign_ins", "Sign-ins, by how they ended", self.sign_ins.clone());
        registry.register("tokens_issued", "Tokens that were issued, by grant type", self.tokens.clone());
        let help = "Refresh tokens that were used again after they had been replaced";
        registry.register("refresh_token_reuses", help, self.reuse.clone());
        registry.register("throttled", "What was refused because there was too much of it", self.throttled.clone());
    }

    fn register_state(&mut self) {
        let registry = &mut self.registry;
        let help = "1 if the MCP server answered the last time that it was asked, else 0";
        registry.register("server_up", help, self.servers_up.clone());
        registry.register(
            "server_processes",
            "Processes of an MCP server that speaks over stdio",
            self.children.clone(),
        );
        registry.register("sessions", "MCP sessions that are kept for a server over stdio", self.sessions.clone());
        registry.register("connections", "Connections of clients, by what they do", self.connections.clone());
        registry.register("log_writable", "1 if the log can be written, else 0", self.logs.clone());
        let help = "How long the store takes to read a row or to write a transaction";
        registry.register_with_unit("store_duration", help, Unit::Seconds, self.store.clone());
    }

    /// An MCP server gave no answer.
    pub fn upstream_failed(&self, server: &str, error: UpstreamError) {
        let (server, kind) = (server.to_string(), error.label());
        self.upstream_errors.get_or_create(&OfError { server, kind }).inc();
    }

    /// The store took so long.
    pub fn store_took(&self, operation: StoreOperation, time: Duration) {
        let operation = match operation {
            StoreOperation::Read => "read",
            StoreOperation::Write => "write",
        };
        self.store.get_or_create(&OfStore { operation }).observe(time.as_secs_f64());
    }

    /// A request begins.
    pub fn begun(&self) {
        self.in_flight.inc();
    }

    /// A request that has begun is over, however.
    pub fn over(&self) {
        self.in_flight.dec();
    }

    /// A request has ended with an answer.
    pub fn ended(&self, request: &Ended<'_>) {
        let seconds = (!request.is_stream).then_some(request.duration.as_secs_f64());
        match request.server {
            Some(server) => self.requests.ended(server, request.method, request.status, seconds),
            None => self.requests.ended_before(request.status),
        }
    }

    /// The metrics as text (OpenMetrics 1.0), with what `now` says.
    pub fn text(&self, now: &Snapshot) -> String {
        // One reader at a time: the gauges are written first.
        let mut before = self.reading.lock().unpoisoned();
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.streams.set(number(now.streams));
        for (state, count) in ["idle", "receiving", "active"].into_iter().zip(now.connections) {
            self.connections.get_or_create(&OfConnections { state }).set(number(count));
        }
        for (log, is_writable) in &now.logs {
            self.logs.get_or_create(&OfLog { log }).set(i64::from(*is_writable));
        }
        let servers: Vec<OfServer> = now.servers.iter().map(|s| OfServer { server: s.name.clone() }).collect();
        for gone in before.iter().filter(|server| !servers.contains(server)) {
            for family in [&self.servers_up, &self.children, &self.sessions] {
                family.remove(gone);
            }
        }
        for (labels, server) in servers.iter().zip(&now.servers) {
            self.servers_up.get_or_create(labels).set(i64::from(server.is_up));
            self.children.get_or_create(labels).set(number(server.children));
            self.sessions.get_or_create(labels).set(number(server.sessions));
            // Of a counter that begins with the first error, that error is no increase.
            for error in UpstreamError::ALL {
                let (server, kind) = (server.name.clone(), error.label());
                let _ = self.upstream_errors.get_or_create(&OfError { server, kind });
            }
        }
        if let Some(time) = now.certificate_expires_at {
            self.certificate.set(time as f64);
        }
        *before = servers;
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes any text");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn up(name: &str, is_up: bool) -> ServerSnapshot {
        ServerSnapshot { name: name.into(), is_up, children: 2, sessions: 3 }
    }

    fn end(metrics: &Metrics, server: Option<&str>, method: Option<&str>, status: u16) {
        metrics.begun();
        metrics.ended(&Ended { server, method, status, duration: Duration::from_millis(3), is_stream: false });
        metrics.over();
    }

    #[test]
    fn the_documentation_lists_the_metrics() {
        let metrics = Metrics::new("1", true);
        end(&metrics, Some("a"), None, 200);
        metrics.upstream_failed("a", UpstreamError::Exited);
        metrics.store_took(StoreOperation::Read, Duration::ZERO);
        let (servers, logs) = (vec![up("a", true)], vec![("audit", true)]);
        let text = metrics.text(&Snapshot { servers, logs, ..Snapshot::default() });
        let shown: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let documented = include_str!("../../../docs/monitoring.md").lines();
        let documented = documented.filter_map(|line| line.strip_prefix("| `mcp_auth_proxy_")?.split('`').next());
        let suffix = |name: &str| name.trim_end_matches("_total").trim_end_matches("_info").to_string();
        let documented: BTreeSet<String> = documented.map(|name| format!("mcp_auth_proxy_{}", suffix(name))).collect();
        assert_eq!(documented.iter().map(String::as_str).collect::<BTreeSet<_>>(), shown);
    }

    #[test]
    fn requests_are_counted_and_labels_are_bounded() {
        let metrics = Metrics::new("1.2.3", true);
        end(&metrics, Some("files"), Some("tools/call"), 200);
        for i in 0..1_000 {
            end(&metrics, Some("files"), Some(&format!("invented/{i}")), 400 + i % 50);
            end(&metrics, None, Some(&format!("tools/{i}")), 401);
        }
        metrics.begun();
        metrics.upstream_failed("wiki", UpstreamError::Timeout);
        metrics.store_took(StoreOperation::Write, Duration::from_millis(2));
        let text = metrics.text(&Snapshot {
            streams: 7,
            servers: vec![up("files", true), up("wiki", false)],
            connections: [5, 6, 7],
            logs: vec![("access", true), ("audit", false)],
            certificate_expires_at: Some(1_800_000_000),
        });
        for line in [
            r#"mcp_auth_proxy_build_info{version="1.2.3"} 1"#,
            r#"mcp_auth_proxy_requests_total{server="files",method="tools/call",code="2xx"} 1"#,
            r#"mcp_auth_proxy_requests_total{server="files",method="other",code="4xx"} 1000"#,
            r#"mcp_auth_proxy_requests_total{server="",method="none",code="4xx"} 1000"#,
            r#"mcp_auth_proxy_request_duration_seconds_count{server="files",method_class="tools",code="2xx"} 1"#,
            r#"mcp_auth_proxy_request_duration_seconds_count{server="files",method_class="other",code="4xx"} 1000"#,
            "mcp_auth_proxy_requests_in_flight 1",
            "mcp_auth_proxy_streams 7",
            r#"mcp_auth_proxy_server_up{server="files"} 1"#,
            r#"mcp_auth_proxy_server_up{server="wiki"} 0"#,
            r#"mcp_auth_proxy_server_processes{server="wiki"} 2"#,
            r#"mcp_auth_proxy_sessions{server="wiki"} 3"#,
            r#"mcp_auth_proxy_connections{state="idle"} 5"#,
            r#"mcp_auth_proxy_connections{state="active"} 7"#,
            r#"mcp_auth_proxy_log_writable{log="access"} 1"#,
            r#"mcp_auth_proxy_log_writable{log="audit"} 0"#,
            r#"mcp_auth_proxy_upstream_errors_total{server="wiki",kind="timeout"} 1"#,
            r#"mcp_auth_proxy_store_duration_seconds_count{operation="write"} 1"#,
            "mcp_auth_proxy_certificate_expiry_timestamp_seconds 1800000000.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}:\n{text}");
        }
        assert_eq!(text.lines().filter(|line| line.contains("requests_total{")).count(), 3, "{text}");
        let text = metrics.text(&Snapshot { servers: vec![up("files", true)], ..Snapshot::default() });
        // What was counted stays; what is measured goes.
        let of_wiki: Vec<_> = text.lines().filter(|line| line.contains("wiki")).collect();
        assert!(of_wiki.len() == 6 && of_wiki.iter().all(|line| line.contains("upstream_errors")), "{of_wiki:?}");
    }
}
