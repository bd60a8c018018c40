//! The counters of requests to one server, which are looked up once for all requests.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::labels::{CLASSES, METHODS, OfDuration, OfRequest};
use crate::lock::Unpoisoned;

/// Classes of HTTP status.
const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests by server, MCP method and class of status.
pub(super) struct RequestSeries {
    pub(super) requests: Family<OfRequest, Counter>,
    pub(super) durations: Family<OfDuration, Histogram, fn() -> Histogram>,
    servers: RwLock<HashMap<String, Arc<OfOne>>>,
}

/// Series of one server, each made when it is needed.
#[derive(Default)]
struct OfOne {
    requests: [[OnceLock<Counter>; CODES.len()]; METHODS.len() + 1],
    durations: [[OnceLock<Histogram>; CODES.len()]; CLASSES.len() + 1],
}

impl RequestSeries {
    pub(super) fn new(buckets: fn() -> Histogram) -> RequestSeries {
        let durations = Family::new_with_constructor(buckets);
        RequestSeries { requests: Family::default(), durations, servers: RwLock::default() }
    }

    /// A request has ended. `seconds` is `None` for an event stream, whose duration says nothing about speed.
    pub(super) fn ended(&self, server: &str, method: Option<&str>, status: u16, seconds: Option<f64>) {
        let known = self.servers.read().unpoisoned().get(server).cloned();
        let one = known.unwrap_or_else(|| self.servers.write().unpoisoned().entry(server.into()).or_default().clone());
        let code = usize::from(status / 100).clamp(1, CODES.len()) - 1;
        let place = |words: &[&str], word: Option<&str>| {
            word.and_then(|word| words.binary_search(&word).ok()).unwrap_or(words.len())
        };
        let (method_place, word) =
            (place(&METHODS, method), |words: &[&'static str], at| words.get(at).copied().unwrap_or("other"));
        let counter = one.requests[method_place][code].get_or_init(|| {
            let labels = OfRequest { server: server.into(), method: word(&METHODS, method_place), code: CODES[code] };
            self.requests.get_or_create(&labels).clone()
        });
        counter.inc();
        let Some(seconds) = seconds else { return };
        let class = METHODS.get(method_place).map(|method| method.split('/').next().unwrap_or_default());
        let class = place(&CLASSES, class);
        let histogram = one.durations[class][code].get_or_init(|| {
            let labels = OfDuration { server: server.into(), method_class: word(&CLASSES, class), code: CODES[code] };
            self.durations.get_or_create(&labels).clone()
        });
        histogram.observe(seconds);
    }

    /// A request that reached no server has ended.
    pub(super) fn ended_before(&self, status: u16) {
        let code = CODES[usize::from(status / 100).clamp(1, CODES.len()) - 1];
        self.requests.get_or_create(&OfRequest { server: String::new(), method: "none", code }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_classes_can_be_searched() {
        assert!(METHODS.is_sorted() && CLASSES.is_sorted());
        let class = |method: &str| method.split('/').next().unwrap().to_string();
        assert!(METHODS.iter().all(|method| CLASSES.contains(&class(method).as_str())));
    }
}
