//! The events that the code has told on this thread, for tests that have the application in their own process.

use std::cell::RefCell;

use mcp_auth_proxy::observe::events::{Event, Field, Kind, Subscriber, subscribe};

thread_local! {
    static TOLD: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

struct Recorder;

impl Subscriber for Recorder {
    // Before lines are left out: tests share the process.
    fn happened(&self, _: Kind, event: &Event) {
        TOLD.with_borrow_mut(|told| {
            // A simulation makes many.
            if told.len() >= 1_000 {
                told.clear();
            }
            told.push(event.clone());
        });
    }

    fn told(&self, _: &Event) {}
}

/// From now on, events are recorded.
pub(crate) fn record() {
    subscribe(vec![Box::new(Recorder)]);
}

/// The fields of the last event of this name that was told on this thread, as `name=value`.
pub(crate) fn told(name: &str) -> Option<Vec<String>> {
    let field = |(name, value): &(&str, Field)| match value {
        Field::Text(text) => format!("{name}={text}"),
        Field::Number(number) => format!("{name}={number}"),
    };
    TOLD.with_borrow(|told| {
        let last = told.iter().rev().find(|event| event.kind.definition().name == name)?;
        Some(last.fields.iter().map(field).collect())
    })
}
