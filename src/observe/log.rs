//! The log: text lines for people, JSON lines for machines, on standard error.
//!
//! Messages are constant sentences; variable parts are key-value pairs, so that both forms are easy to search. Control
//! characters are escaped in both. Lines of libraries are logged only from `warn` up, because their debug lines repeat
//! header fields, which contain secrets.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Metadata, Record};
use time::OffsetDateTime;

/// Format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

struct Logger {
    format: LogFormat,
}

/// Starts logging. Only the first call in a process has an effect.
pub fn init(format: LogFormat, level: LevelFilter) {
    if log::set_boxed_logger(Box::new(Logger { format })).is_ok() {
        log::set_max_level(level);
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        let own = metadata.target().starts_with("mcp_auth_proxy");
        metadata.level() <= log::max_level() && (own || metadata.level() <= Level::Warn)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = match self.format {
            LogFormat::Text => text(record),
            LogFormat::Json => json(record),
        };
        // A log line that can't be written must not make a request fail.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn text(record: &Record) -> String {
    let mut line = format!("{} {:<5} ", timestamp(), record.level());
    escape_into(&mut line, &record.args().to_string());
    let mut fields = Fields(Vec::new());
    let _ = record.key_values().visit(&mut fields);
    // A person reads the sentence, and needs no name for it.
    for (key, value) in fields.0.into_iter().filter(|(key, _)| key != "event") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        let _ = write!(line, " {key}=");
        if value.is_empty() || value.contains([' ', '"', '=']) {
            line.push('"');
            escape_into(&mut line, &value.replace('"', "'"));
            line.push('"');
        } else {
            escape_into(&mut line, &value);
        }
    }
    line.push('\n');
    line
}

fn json(record: &Record) -> String {
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let mut line = format!(
        r#"{{"time":"{}","level":"{}","message":{}"#,
        timestamp(),
        record.level().as_str().to_lowercase(),
        text(&record.args().to_string())
    );
    let mut fields = Fields(Vec::new());
    let _ = record.key_values().visit(&mut fields);
    for (key, value) in fields.0 {
        let _ = write!(line, ",{}:{value}", text(&key));
    }
    line.push_str("}\n");
    line.truncate(line.len() - 1);
    if line.contains(needs_escape) {
        let escaped = |c: char| if needs_escape(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
        line = line.chars().map(escaped).collect();
    }
    line.push('\n');
    line
}

/// The key-value pairs, each with the type that it was logged with: a name made of digits stays a string.
struct Fields(Vec<(String, serde_json::Value)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let number = value.to_u64().map(Into::into).or_else(|| value.to_i64().map(Into::into));
        let typed = number.or_else(|| value.to_bool().map(Into::into));
        let value = typed.unwrap_or_else(|| value.to_string().into());
        // The one server of the command line has no name, and a sign-in may have no user.
        if !matches!(key.as_str(), "server" | "user") || value != "" {
            self.0.push((key.to_string(), value));
        }
        Ok(())
    }
}

/// Appends `text`, with `\u{…}` for control characters and for characters that could break or rearrange a terminal's
/// line.
pub fn escape_into(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            c if needs_escape(c) => {
                let _ = write!(line, "{}", c.escape_unicode());
            }
            c => line.push(c),
        }
    }
}

/// Characters that are not written as they are even in JSON: those that turn the text around, those that some programs take
/// for the end of a line, and control characters of 8-bit terminals.
pub fn needs_escape(c: char) -> bool {
    c.is_control() || is_bidi_control(c) || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Characters that change the direction of the text around them (Unicode `Bidi_Control`), and byte order marks.
pub fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The current time in UTC with milliseconds, in the format of RFC 3339.
pub fn timestamp() -> String {
    thread_local! {
        /// The last second, and its text up to the dot.
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now.as_secs() {
            (*second, *text) = (now.as_secs(), text_of_second(now.as_secs()));
        }
        let (mut whole, millis) = (String::with_capacity(24), now.subsec_millis());
        whole.push_str(text);
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            whole.push(char::from(b'0' + digit as u8));
        }
        whole.push('Z');
        whole
    })
}

/// A second since 1970, as text up to the dot before its milliseconds.
fn text_of_second(second: u64) -> String {
    let time = i64::try_from(second).ok().and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, time) = (time.date(), time.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// Tracks a period of failures, so that only its first error and the recovery are logged.
#[derive(Default)]
pub struct Episode(std::sync::atomic::AtomicBool);

impl Episode {
    /// Notes a failure; true when it is the first since the last success.
    pub fn begins(&self) -> bool {
        !self.0.swap(true, std::sync::atomic::Ordering::Relaxed)
    }

    /// Was the last thing a failure?
    pub fn lasts(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Notes a success; true when failures came before it.
    pub fn ends(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed) && self.0.swap(false, std::sync::atomic::Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_can_not_forge_a_line() {
        let mut record = Record::builder();
        let pairs = [("user", "a\nb\u{1b}[2J\u{202e}")];
        let fake = record.level(Level::Info).key_values(&pairs).args(format_args!("hello")).build();
        let line = text(&fake);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.contains("\\u{a}b\\u{1b}[2J\\u{202e}"), "{line}");
        let line = json(&fake);
        assert!(line.matches('\n').count() == 1 && line.contains("\\u202e") && !line.contains('\u{202e}'), "{line}");
    }

    #[test]
    fn a_field_has_one_type_whatever_it_says() {
        let (client, on) = (String::from("12345"), String::from("true"));
        let pairs = [
            ("name", Value::from(client.as_str())),
            ("shown", Value::from_display(&client)),
            ("on", Value::from_display(&on)),
            ("count", Value::from(7u64)),
            ("below", Value::from(-7)),
            ("is", Value::from(true)),
        ];
        let mut record = Record::builder();
        let line = json(&record.level(Level::Info).key_values(&pairs).args(format_args!("hello")).build());
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["name"], &line["shown"], &line["on"]), (&"12345".into(), &"12345".into(), &"true".into()));
        assert_eq!((&line["count"], &line["below"], &line["is"]), (&7.into(), &(-7).into(), &true.into()));
    }

    #[test]
    fn a_time_is_that_of_its_second() {
        assert_eq!(text_of_second(1_800_000_000), "2027-01-15T08:00:00.");
        let (one, other) = (timestamp(), timestamp());
        assert!(one <= other && one.len() == 24 && one.ends_with('Z') && one.starts_with("20"), "{one} {other}");
    }

    #[test]
    fn an_episode_is_told_once() {
        let e = Episode::default();
        assert!(!e.ends() && e.begins() && !e.begins() && e.ends() && !e.ends() && e.begins());
    }
}
