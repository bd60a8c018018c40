//! A line of a log that has many: a field after the other, as JSON or as text.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use itoa::Buffer;

use super::log::{LogFormat, escape_into, needs_escape};

/// The value of a field.
#[derive(Clone, Copy)]
pub enum Value<'r> {
    /// A text.
    Text(&'r str),
    /// A text that needs no escape in JSON.
    Plain(&'r str),
    /// An address.
    Address(IpAddr),
    /// Any JSON.
    Json(&'r serde_json::Value),
    /// A number.
    Number(u64),
    /// In milliseconds, with three decimals; `None` if there is none.
    Time(Option<Duration>),
    /// Yes or no.
    Truth(bool),
}

/// A line that grows by one field after the other.
pub struct Line {
    text: String,
    format: LogFormat,
}

impl Line {
    /// An empty line.
    pub fn new(format: LogFormat) -> Line {
        Line { text: String::with_capacity(512), format }
    }

    /// Adds a field.
    pub fn add(&mut self, name: &str, value: Value<'_>) {
        match self.format {
            LogFormat::Json => self.add_json(name, value),
            LogFormat::Text => self.add_text(name, value),
        }
    }

    fn add_json(&mut self, name: &str, value: Value<'_>) {
        let line = &mut self.text;
        for part in [",\"", name, "\":"] {
            line.push_str(part);
        }
        let quoted = |line: &mut String, text: &str| {
            line.push('"');
            line.push_str(text);
            line.push('"');
        };
        match value {
            Value::Plain(text) => quoted(line, text),
            Value::Text(text) if needs_no_escape(text) => quoted(line, text),
            Value::Text(text) => write_json(line, &text.into()),
            Value::Address(address) => {
                line.push('"');
                write_address(line, address);
                line.push('"');
            }
            Value::Json(json) => write_json(line, json),
            Value::Number(number) => line.push_str(Buffer::new().format(number)),
            Value::Time(Some(time)) => write_time(line, time),
            Value::Time(None) => line.push_str("null"),
            Value::Truth(is) => line.push_str(if is { "true" } else { "false" }),
        }
    }

    fn add_text(&mut self, name: &str, value: Value<'_>) {
        let value = match value {
            Value::Text("") | Value::Plain("") | Value::Time(None) => return,
            Value::Text(text) | Value::Plain(text) => text.to_string(),
            Value::Address(address) => address.to_string(),
            Value::Json(json) => json.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Time(Some(time)) => format!("{}.{:03}", time.as_millis(), time.as_micros() % 1_000),
            Value::Truth(is) => is.to_string(),
        };
        let line = &mut self.text;
        let _ = write!(line, " {name}=");
        match value.contains([' ', '"', '=']) {
            true => {
                line.push('"');
                escape_into(line, &value.replace('"', "'"));
                line.push('"');
            }
            false => escape_into(line, &value),
        }
    }

    /// The whole line.
    pub fn end(mut self) -> String {
        if self.format == LogFormat::Json {
            // A member has a comma before it.
            self.text.replace_range(..1, "{");
            self.text.push('}');
        }
        self.text.push('\n');
        self.text
    }

    /// What has been added, for a longer line: each member behind a comma, or each field behind a blank.
    pub fn members(&self) -> &str {
        &self.text
    }
}

/// Nearly all texts need no escape.
fn needs_no_escape(text: &str) -> bool {
    // Without an end in between, so that several bytes are looked at together.
    text.bytes().fold(true, |so_far, b| so_far & (b' '..=b'~').contains(&b) & (b != b'"') & (b != b'\\'))
}

/// An address as text, without the machinery of the standard library for the usual kind.
fn write_address(line: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (place, byte) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    line.push('.');
                }
                line.push_str(Buffer::new().format(byte));
            }
        }
        IpAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

/// Milliseconds with three decimals.
fn write_time(line: &mut String, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    line.push_str(Buffer::new().format(micros / 1_000));
    line.push('.');
    let decimals = micros % 1_000;
    for digit in [decimals / 100, decimals / 10 % 10, decimals % 10] {
        line.push(char::from(b'0' + digit as u8));
    }
}

/// JSON in which nothing changes the direction of the text around it.
fn write_json(line: &mut String, json: &serde_json::Value) {
    for c in json.to_string().chars() {
        match needs_escape(c) {
            true => drop(write!(line, "\\u{:04x}", u32::from(c))),
            false => line.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["time", "user", "path", "mcp_name"];

    fn line(format: LogFormat) -> String {
        let mut line = Line::new(format);
        NAMES.iter().for_each(|name| line.add(name, Value::Text("a\n\"b\u{202e}\\\u{1b}é")));
        line.add("status", Value::Number(200));
        line.add("address", Value::Address([192, 0, 2, 10].into()));
        line.add("network", Value::Address("2001:db8::1".parse().unwrap()));
        line.add("duration_ms", Value::Time(Some(Duration::from_micros(12_034))));
        line.add("upstream_ms", Value::Time(None));
        line.add("is_whole", Value::Truth(true));
        line.end()
    }

    #[test]
    fn a_line_can_not_be_forged() {
        let json = line(LogFormat::Json);
        assert!(json.matches('\n').count() == 1 && !json.contains(['\u{202e}', '\u{1b}']), "{json}");
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(NAMES.iter().all(|name| parsed[name] == "a\n\"b\u{202e}\\\u{1b}é"), "{parsed}");
        assert_eq!(
            (&parsed["status"], &parsed["duration_ms"], &parsed["is_whole"]),
            (&200.into(), &12.034.into(), &true.into())
        );
        assert_eq!((&parsed["address"], &parsed["network"]), (&"192.0.2.10".into(), &"2001:db8::1".into()));
        assert!(parsed["upstream_ms"].is_null());
        let text = line(LogFormat::Text);
        assert!(text.matches('\n').count() == 1 && !text.contains(['\u{202e}', '\u{1b}']), "{text}");
        assert!(text.contains(r#" user="#), "{text}");
        assert!(
            text.ends_with(" status=200 address=192.0.2.10 network=2001:db8::1 duration_ms=12.034 is_whole=true\n"),
            "{text}"
        );
    }
}
