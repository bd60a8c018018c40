//! Outbound HTTP proxies, as configured in the environment.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use super::remote_url::RemoteUrl;
use crate::url::is_loopback_host;

/// An outbound HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct OutboundProxy {
    /// Its host and port.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The value of the `Proxy-Authorization` field.
    pub(crate) credentials: Option<String>,
}

/// Which proxy to use for which host: `HTTPS_PROXY` and `NO_PROXY` from the environment, in upper or lower case.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<OutboundProxy>,
    direct: Vec<String>,
}

impl Proxies {
    /// Reads the settings from the environment. The error is one line.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Proxies, String> {
        let either = |name: &str| {
            let value = env(name).or_else(|| env(&name.to_lowercase()));
            value.filter(|v| !v.is_empty())
        };
        let https = either("HTTPS_PROXY").map(|text| parse_proxy(&text)).transpose()?;
        let direct = either("NO_PROXY").unwrap_or_default();
        let direct = direct.split(',').map(|d| d.trim().to_ascii_lowercase()).filter(|d| !d.is_empty()).collect();
        Ok(Proxies { https, direct })
    }

    pub(super) fn to(&self, url: &RemoteUrl) -> Option<OutboundProxy> {
        let host = url.host().to_ascii_lowercase();
        let is_direct = |entry: &String| {
            let entry = entry.split(':').next().unwrap_or_default().trim_start_matches('.');
            entry == "*" || host == entry || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
        };
        let is_wanted = url.is_secure() && !is_loopback_host(&host) && !self.direct.iter().any(is_direct);
        self.https.clone().filter(|_| is_wanted)
    }
}

fn parse_proxy(text: &str) -> Result<OutboundProxy, String> {
    // The error does not quote the value, which may contain a password.
    let refuse = || "HTTPS_PROXY is not a URL such as http://proxy.example.com:3128".to_string();
    let text = text.strip_prefix("http://").or((!text.contains("://")).then_some(text)).ok_or_else(refuse)?;
    let (credentials, place) = text.trim_end_matches('/').rsplit_once('@').map_or((None, text), |(c, p)| (Some(c), p));
    let authority: ::http::uri::Authority = place.trim_end_matches('/').parse().map_err(|_| refuse())?;
    let credentials = credentials.map(|c| {
        let plain: Vec<u8> = percent_decode_str(c).collect();
        format!("Basic {}", STANDARD.encode(plain))
    });
    Ok(OutboundProxy { host: authority.host().into(), port: authority.port_u16().unwrap_or(80), credentials })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_way_out() {
        let proxies = |https: &str, no: &str| {
            Proxies::from_env(|name| match name {
                "HTTPS_PROXY" => Some(https.to_string()),
                "no_proxy" => Some(no.to_string()),
                _ => None,
            })
        };
        let to = |proxies: &Proxies, url: &str| proxies.to(&RemoteUrl::parse(url).unwrap()).map(|p| (p.host, p.port));
        let set = proxies("http://u:p%40@proxy:3128/", "internal.example.com, .corp.example").unwrap();
        assert_eq!(set.https.as_ref().unwrap().credentials.as_deref(), Some("Basic dTpwQA=="));
        assert_eq!(to(&set, "https://idp.example.com/"), Some(("proxy".into(), 3128)));
        for direct in
            ["https://internal.example.com/", "https://a.corp.example/", "https://localhost/", "http://127.0.0.1/"]
        {
            assert_eq!(to(&set, direct), None, "{direct}");
        }
        assert_eq!(to(&set, "https://xinternal.example.com/"), Some(("proxy".into(), 3128)));
        assert!(to(&proxies("proxy:8080", "*").unwrap(), "https://a.example/").is_none());
        let error = proxies("socks5://user:secret@proxy", "").err().unwrap();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
        assert!(to(&proxies("", "").unwrap(), "https://a.example/").is_none());
    }
}
