//! Limits on requests in a time.

use crate::flags::Settings;
use crate::flags::values;
use crate::resource::rate_limits::{PerMinute, RateLimitConfig};

/// Checks the settings.
pub fn configure(s: &Settings) -> Result<RateLimitConfig, String> {
    let per_minute = |(rate, burst): values::PerMinute| PerMinute { rate, burst };
    let mut config = RateLimitConfig::default();
    for (name, rate) in &s.rate_limit {
        let limit = match name.as_str() {
            "" | "user" => &mut config.user,
            "client" => &mut config.client,
            "address" => &mut config.address,
            other => {
                return Err(format!(
                    "--rate-limit (RATE_LIMIT): '{other}' is not one of user, client and address; for a tool there is --tool-rate-limit"
                ));
            }
        };
        if limit.replace(per_minute(*rate)).is_some() {
            return Err("--rate-limit (RATE_LIMIT): a number alone and user= mean the same; leave one out".into());
        }
    }
    for (name, rate) in &s.tool_rate_limit {
        match name.as_str() {
            "" => config.tool = Some(per_minute(*rate)),
            tool => drop(config.tools.insert(tool.into(), per_minute(*rate))),
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_and_each_once() {
        let read = |rate_limit: &str, tool: &str| {
            let (rate_limit, tool_rate_limit) = (values::rates(rate_limit).unwrap(), values::rates(tool).unwrap());
            configure(&Settings { rate_limit, tool_rate_limit, ..Settings::default() })
        };
        let config = read("60:5,client=100,address=30", "10,mail=1").unwrap();
        assert_eq!(config.user, Some(PerMinute { rate: 60, burst: 5 }));
        assert_eq!((config.client.unwrap().rate, config.address.unwrap().rate), (100, 30));
        assert_eq!((config.tool.unwrap().rate, config.tools["mail"].rate), (10, 1));
        for bad in ["users=1", "1,user=2"] {
            assert!(read(bad, "").unwrap_err().contains("--rate-limit (RATE_LIMIT)"));
        }
    }
}
