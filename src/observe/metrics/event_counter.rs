//! Counts events that matter for security.

use std::sync::Arc;

use super::labels::{GRANT_TYPES, LIMITS, OfEvent, OfSignIn, OfThrottle, OfTokens, SIGN_INS};
use super::registry::Metrics;
use crate::observe::events::{Event, Field, Kind, Subscriber};

/// Counts events.
pub struct EventCounter(pub Arc<Metrics>);

impl Subscriber for EventCounter {
    fn happened(&self, kind: Kind, event: &Event) {
        let metrics = &self.0;
        let text = |name: &str| event.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        let is = |name: &str, wanted: &str| matches!(text(name), Some(Field::Text(text)) if text == wanted);
        metrics.events.get_or_create(&OfEvent { event: kind.definition().name }).inc();
        if let Some((_, result)) = SIGN_INS.iter().find(|(of, _)| *of == kind) {
            metrics.sign_ins.get_or_create(&OfSignIn { result }).inc();
        }
        let limit = match kind {
            Kind::SignInThrottled => Some("sign_in"),
            Kind::RegistrationRefused if is("error", "temporarily_unavailable") => Some("registration"),
            Kind::RateLimited => LIMITS.into_iter().find(|limit| is("limit", limit)),
            _ => None,
        };
        if let Some(limit) = limit {
            metrics.throttled.get_or_create(&OfThrottle { limit }).inc();
        }
        let grant_type = match kind {
            Kind::TokensIssued => GRANT_TYPES.into_iter().find(|(name, _)| is("grant_type", name)),
            Kind::TokensRefreshed => GRANT_TYPES.into_iter().find(|(name, _)| *name == "refresh_token"),
            _ => None,
        };
        if let Some((_, grant_type)) = grant_type {
            metrics.tokens.get_or_create(&OfTokens { grant_type }).inc();
        }
        if kind == Kind::RefreshTokenReused {
            metrics.reuse.inc();
        }
    }

    fn told(&self, _: &Event) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::registry::Snapshot;

    #[test]
    fn events_are_counted_as_what_they_mean_and_labels_are_bounded() {
        let metrics = Arc::new(Metrics::new("1", false));
        let counter = EventCounter(metrics.clone());
        let happens = |event: Event| counter.happened(event.kind, &event);
        let lines = |metrics: &Metrics| metrics.text(&Snapshot::default()).lines().count();
        let before = lines(&metrics);
        happens(Event::new(Kind::SignedIn));
        happens(Event::new(Kind::SignInFailed));
        happens(Event::new(Kind::TokensIssued).with("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"));
        happens(Event::new(Kind::TokensRefreshed).with("how", "rotated"));
        happens(Event::new(Kind::RefreshTokenReused));
        happens(Event::new(Kind::RateLimited).with("limit", "tool"));
        happens(Event::new(Kind::SignInThrottled));
        happens(Event::new(Kind::RegistrationRefused).with("error", "temporarily_unavailable"));
        happens(Event::new(Kind::RegistrationRefused).with("error", "invalid_client_metadata"));
        for i in 0..100 {
            happens(Event::new(Kind::TokensIssued).with("grant_type", format!("invented {i}")));
            happens(Event::new(Kind::RateLimited).with("limit", i));
        }
        let text = metrics.text(&Snapshot::default());
        for line in [
            r#"sign_ins_total{result="ok"} 1"#,
            r#"sign_ins_total{result="wrong_password"} 1"#,
            r#"sign_ins_total{result="throttled"} 1"#,
            r#"tokens_issued_total{grant_type="jwt_bearer"} 1"#,
            r#"tokens_issued_total{grant_type="refresh_token"} 1"#,
            r#"tokens_issued_total{grant_type="client_credentials"} 0"#,
            "refresh_token_reuses_total 1",
            r#"throttled_total{limit="tool"} 1"#,
            r#"throttled_total{limit="sign_in"} 1"#,
            r#"throttled_total{limit="registration"} 1"#,
            r#"events_total{event="registration_refused"} 2"#,
        ] {
            assert!(text.lines().any(|own| own == format!("mcp_auth_proxy_{line}")), "{line}:\n{text}");
        }
        assert_eq!(lines(&metrics), before, "nothing that is sent makes a series");
    }
}
