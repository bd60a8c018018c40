//! Metrics for Prometheus: counted while requests are answered, and shown by the monitoring port.
//!
//! Label sets are bounded: a label has the name of a configured server, or one of a fixed list of words.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::lock::Unpoisoned;

/// Upper bounds of the buckets for durations, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];
/// MCP methods that have a label of their own.
const METHODS: [&str; 17] = [
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/initialized",
    "notifications/progress",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "tools/call",
    "tools/list",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    server: String,
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfServer {
    server: String,
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
    /// Each MCP server, and whether it answered the last time.
    pub servers: Vec<(String, bool)>,
    /// When the certificate expires, in seconds since 1970.
    pub certificate_expires_at: Option<u64>,
}

/// All metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<OfRequest, Counter>,
    durations: Family<OfServer, Histogram>,
    in_flight: Gauge,
    streams: Gauge,
    servers_up: Family<OfServer, Gauge>,
    certificate: Gauge<f64, AtomicU64>,
    /// Those whose gauges were written last, so that a server that is gone goes from here, too.
    reading: Mutex<Vec<OfServer>>,
}

impl Metrics {
    /// Nothing has happened yet. `version` is that of the program.
    pub fn new(version: &str, has_certificate: bool) -> Metrics {
        let mut registry = Registry::with_prefix("mcp_auth_proxy");
        let metrics = Metrics {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            in_flight: Gauge::default(),
            streams: Gauge::default(),
            servers_up: Family::default(),
            certificate: Gauge::default(),
            reading: Mutex::default(),
            registry: Registry::default(),
        };
        let version = Info::new(vec![("version", version.to_string())]);
        registry.register("build", "The program", version);
        let help = "Requests that have ended, by server, MCP method and class of HTTP status";
        registry.register("requests", help, metrics.requests.clone());
        let help = "Time from a request's head to the end of its answer, without event streams";
        registry.register_with_unit("request_duration", help, Unit::Seconds, metrics.durations.clone());
        registry.register(
            "requests_in_flight",
            "Requests that are being answered, streams too",
            metrics.in_flight.clone(),
        );
        registry.register("streams", "Event streams that are open", metrics.streams.clone());
        let help = "1 if the MCP server answered the last time that it was asked, else 0";
        registry.register("server_up", help, metrics.servers_up.clone());
        let help = "When the certificate in use expires, since 1970";
        if has_certificate {
            let gauge = metrics.certificate.clone();
            registry.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, gauge);
        }
        Metrics { registry, ..metrics }
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
        let server = request.server.unwrap_or_default().to_string();
        let method = match (request.server, request.method) {
            (None, _) => "none",
            (Some(_), Some(name)) => METHODS.iter().find(|known| **known == name).copied().unwrap_or("other"),
            (Some(_), None) => "other",
        };
        if request.server.is_some() && !request.is_stream {
            self.durations.get_or_create(&OfServer { server: server.clone() }).observe(request.duration.as_secs_f64());
        }
        self.requests.get_or_create(&OfRequest { server, method, code: class(request.status) }).inc();
    }

    /// The metrics as text (OpenMetrics 1.0), with what `now` says.
    pub fn text(&self, now: &Snapshot) -> String {
        // One reader at a time: the gauges are written first.
        let mut before = self.reading.lock().unpoisoned();
        self.streams.set(i64::try_from(now.streams).unwrap_or(i64::MAX));
        let servers: Vec<OfServer> = now.servers.iter().map(|(name, _)| OfServer { server: name.clone() }).collect();
        for gone in before.iter().filter(|server| !servers.contains(server)) {
            self.servers_up.remove(gone);
        }
        for (labels, (_, is_up)) in servers.iter().zip(&now.servers) {
            self.servers_up.get_or_create(labels).set(i64::from(*is_up));
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

fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn end(metrics: &Metrics, server: Option<&str>, method: Option<&str>, status: u16) {
        metrics.begun();
        metrics.ended(&Ended { server, method, status, duration: Duration::from_millis(3), is_stream: false });
        metrics.over();
    }

    #[test]
    fn the_documentation_lists_the_metrics() {
        let metrics = Metrics::new("1", true);
        end(&metrics, Some("a"), None, 200);
        let text = metrics.text(&Snapshot { servers: vec![("a".into(), true)], ..Snapshot::default() });
        let shown: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let documented = include_str!("../../docs/monitoring.md").lines();
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
        let servers = vec![("files".to_string(), true), ("wiki".to_string(), false)];
        let text = metrics.text(&Snapshot { streams: 7, servers, certificate_expires_at: Some(1_800_000_000) });
        for line in [
            r#"mcp_auth_proxy_build_info{version="1.2.3"} 1"#,
            r#"mcp_auth_proxy_requests_total{server="files",method="tools/call",code="2xx"} 1"#,
            r#"mcp_auth_proxy_requests_total{server="files",method="other",code="4xx"} 1000"#,
            r#"mcp_auth_proxy_requests_total{server="",method="none",code="4xx"} 1000"#,
            r#"mcp_auth_proxy_request_duration_seconds_count{server="files"} 1001"#,
            "mcp_auth_proxy_requests_in_flight 1",
            "mcp_auth_proxy_streams 7",
            r#"mcp_auth_proxy_server_up{server="files"} 1"#,
            r#"mcp_auth_proxy_server_up{server="wiki"} 0"#,
            "mcp_auth_proxy_certificate_expiry_timestamp_seconds 1800000000.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}:\n{text}");
        }
        assert_eq!(text.lines().filter(|line| line.contains("requests_total{")).count(), 3, "{text}");
        let text = metrics.text(&Snapshot { servers: vec![("files".into(), true)], ..Snapshot::default() });
        assert!(!text.contains("wiki"), "{text}");
    }
}
