//! Parsers for the values of options: switches, durations, sizes, counts, lists.

use std::time::Duration;

/// `1`, `true`, `0`, `false`.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("'{text}' is not one of 1, true, 0, false")),
    }
}

/// `90`, `90s`, `5m`, `1h`, `30d`: at least one second, at most ten years.
pub fn duration(text: &str) -> Result<Duration, String> {
    let error = || format!("'{text}' is not a duration such as 30s, 5m, 1h or 30d");
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(digits) => (digits, text.as_bytes()[text.len() - 1]),
        None => (text, b's'),
    };
    let factor = match unit {
        b'm' => 60,
        b'h' => 3_600,
        b'd' => 86_400,
        _ => 1,
    };
    let seconds = number(digits).ok().and_then(|n| n.checked_mul(factor)).ok_or_else(error)?;
    if seconds == 0 || seconds > 3_650 * 86_400 {
        return Err(format!("'{text}' is not between 1s and 3650d"));
    }
    Ok(Duration::from_secs(seconds))
}

/// Bytes: `4096`, `16KiB`, `16MiB`, `1GiB`.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, factor) = [("KiB", 1u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|d| (d, *factor)))
        .unwrap_or((text, 1));
    number(digits)
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("'{text}' is not a size such as 4096, 16KiB or 16MiB"))
}

/// A whole number above zero.
pub fn count(text: &str) -> Result<usize, String> {
    number(text)
        .ok()
        .filter(|n| *n > 0)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| format!("'{text}' is not a whole number above zero"))
}

/// Like [`count`], but 0 is allowed.
pub fn count_or_none(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { count(text) }
}

/// A number in a minute, and how many at once.
pub type PerMinute = (u32, u32);

/// `60`, `60:10`, `user=60:10,client=600`: for each name, or for the empty one, a number in a minute and how many of them
/// may come at once: as many, unless it says otherwise.
pub fn rates(text: &str) -> Result<Vec<(String, PerMinute)>, String> {
    let number = |text: &str| {
        let count = count(text).ok().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= 1_000_000);
        count.ok_or_else(|| format!("'{text}' is not a whole number from 1 to 1000000"))
    };
    let mut rates: Vec<(String, PerMinute)> = Vec::new();
    for item in list(text) {
        let (name, value) = item.rsplit_once('=').unwrap_or(("", &item));
        let (rate, burst) = value.split_once(':').map_or((value, None), |(rate, burst)| (rate, Some(burst)));
        let rate = number(rate)?;
        let burst = burst.map(number).transpose()?.unwrap_or(rate);
        if rates.iter().any(|(known, _)| known == name) {
            return Err(format!("'{item}' says something about '{name}' for the second time"));
        }
        rates.push((name.to_string(), (rate, burst)));
    }
    Ok(rates)
}

/// Comma-separated, blanks trimmed, empty items dropped.
pub fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_string).collect()
}

/// Like [`list`], with `\,` for a comma within an item.
pub fn escaped_list(text: &str) -> Result<Vec<String>, String> {
    let mut items = vec![String::new()];
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let last = items.last_mut().ok_or("no item")?;
        match c {
            ',' => items.push(String::new()),
            '\\' => match rest.next() {
                Some(',') => last.push(','),
                Some(other) => last.extend(['\\', other]),
                None => return Err("a backslash at the end stands for nothing".into()),
            },
            c => last.push(c),
        }
    }
    Ok(items.iter().map(|i| i.trim().to_string()).filter(|i| !i.is_empty()).collect())
}

/// Digits only: `u64::from_str` would also take a plus sign.
fn number(text: &str) -> Result<u64, ()> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(());
    }
    text.parse().map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("90", 90), ("30s", 30), ("5m", 300), ("1h", 3_600), ("30d", 2_592_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "0", "-1", "+1", "1.5h", "1w", "4000d", "99999999999999999999d", "1 h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists() {
        assert_eq!(list(" a ,, b,"), ["a", "b"]);
        assert_eq!(escaped_list(r"*@{a\,b}.com , c\d"), Ok(vec!["*@{a,b}.com".to_string(), r"c\d".to_string()]));
        assert!(escaped_list(r"a\").is_err());
    }

    #[test]
    fn numbers_in_a_minute() {
        let read = |text| rates(text).unwrap();
        assert_eq!(read("60"), [(String::new(), (60, 60))]);
        assert_eq!(read("user=60:10, client=5"), [("user".into(), (60, 10)), ("client".into(), (5, 5))]);
        assert_eq!(read("a=b=1"), [("a=b".into(), (1, 1))], "a tool's name may have any character");
        for text in ["x", "0", "60:0", "60:", "user=", "60:1:2", "-1", "2000000", "1,2", "a=1,a=2"] {
            assert!(rates(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("1", 1), ("16KiB", 16_384), ("2MiB", 2 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "0", "KiB", "16KB", "16 MiB", "99999999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
