//! A line of a log that has many: a field after the other, as JSON or as text.

use std::fmt::Write as _;
use std::time::Duration;

use super::log::{LogFormat, escape_into, is_bidi_control};

/// The value of a field.
pub enum Value<'r> {
    /// A text.
    Text(&'r str),
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
        line.push_str(if line.is_empty() { "{\"" } else { ",\"" });
        line.push_str(name);
        line.push_str("\":");
        let _ = match value {
            // Nearly all texts need no escape.
            Value::Text(text) if text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') => {
                write!(line, "\"{text}\"")
            }
            Value::Text(text) => write_json(line, &text.into()),
            Value::Json(json) => write_json(line, json),
            Value::Number(number) => write!(line, "{number}"),
            Value::Time(Some(time)) => write!(line, "{}.{:03}", time.as_millis(), time.as_micros() % 1_000),
            Value::Time(None) => line.write_str("null"),
            Value::Truth(is) => write!(line, "{is}"),
        };
    }

    fn add_text(&mut self, name: &str, value: Value<'_>) {
        let value = match value {
            Value::Text("") | Value::Time(None) => return,
            Value::Text(text) => text.to_string(),
            Value::Json(json) => json.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Time(Some(time)) => format!("{}.{:03}", time.as_millis(), time.as_micros() % 1_000),
            Value::Truth(is) => is.to_string(),
        };
        let line = &mut self.text;
        if !line.is_empty() {
            let _ = write!(line, " {name}=");
        }
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
        self.text.push_str(if self.format == LogFormat::Json { "}\n" } else { "\n" });
        self.text
    }
}

/// JSON in which nothing changes the direction of the text around it.
fn write_json(line: &mut String, json: &serde_json::Value) -> std::fmt::Result {
    json.to_string().chars().try_for_each(|c| match is_bidi_control(c) {
        true => write!(line, "\\u{:04x}", u32::from(c)),
        false => line.write_char(c),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["time", "user", "path", "mcp_name"];

    fn line(format: LogFormat) -> String {
        let mut line = Line::new(format);
        NAMES.iter().for_each(|name| line.add(name, Value::Text("a\n\"b\u{202e}\\\u{1b}é")));
        line.add("status", Value::Number(200));
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
        assert!(parsed["upstream_ms"].is_null());
        let text = line(LogFormat::Text);
        assert!(text.matches('\n').count() == 1 && !text.contains(['\u{202e}', '\u{1b}']), "{text}");
        assert!(text.contains(r#" user="#), "{text}");
        assert!(text.ends_with(" status=200 duration_ms=12.034 is_whole=true\n"), "{text}");
    }
}
