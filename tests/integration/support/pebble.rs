//! A real certificate authority that speaks ACME: Pebble, with a DNS server that sends every name here.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::eventually;
use super::proxy::{Scratch, free_port};
use super::tls::Authority;

/// How the authority behaves.
#[derive(Clone, Copy)]
pub(crate) struct Behaviour {
    /// Of a hundred good nonces, so many are refused.
    pub refused_nonces: u8,
    /// Each validation waits for fewer seconds than that, at random.
    pub longest_pause: u8,
    /// Lifetime of certificates, in seconds.
    pub lifetime: u32,
    /// No account without one elsewhere.
    pub wants_external_account: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour { refused_nonces: 5, longest_pause: 0, lifetime: 86_400, wants_external_account: false }
    }
}

/// What Pebble is told of an account elsewhere, as its operator would be.
pub(crate) const EXTERNAL_KID: &str = "kid-1";
pub(crate) const EXTERNAL_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// The authority; killed when dropped.
pub(crate) struct Pebble {
    scratch: Scratch,
    dns: Child,
    authority: Option<Child>,
    behaviour: Behaviour,
    port: u16,
    management: u16,
    dns_port: u16,
    dns_management: u16,
    /// Where it expects the plain port and the TLS port of those that it validates.
    pub http_port: u16,
    pub tls_port: u16,
}

impl Pebble {
    /// An authority that validates on two free ports.
    pub(crate) fn start(behaviour: Behaviour) -> Pebble {
        let scratch = Scratch::new();
        make_certificates(&scratch);
        let (dns_port, dns_management) = (free_port(), free_port());
        let dns = Command::new("pebble-challtestsrv")
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &format!("127.0.0.1:{dns_port}"), "-management", &format!("127.0.0.1:{dns_management}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble-challtestsrv runs (Debian: apt-get install pebble)");
        let (http_port, tls_port) = (free_port(), free_port());
        let (port, management) = (free_port(), free_port());
        let mut pebble = Pebble {
            scratch,
            dns,
            authority: None,
            behaviour,
            port,
            management,
            dns_port,
            dns_management,
            http_port,
            tls_port,
        };
        pebble.up();
        pebble
    }

    /// Starts the authority, which has forgotten everything.
    pub(crate) fn up(&mut self) {
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.scratch.path("api.pem"), "privateKey": self.scratch.path("api.key"),
            "httpPort": self.http_port, "tlsPort": self.tls_port, "ocspResponderURL": "",
            "externalAccountBindingRequired": self.behaviour.wants_external_account,
            "externalAccountMACKeys": {EXTERNAL_KID: EXTERNAL_KEY},
            "certificateValidityPeriod": self.behaviour.lifetime,
        }});
        fs::write(self.scratch.path("pebble.json"), config.to_string()).unwrap();
        let log = fs::File::create(self.scratch.path("pebble.log")).unwrap();
        let child = Command::new("pebble")
            .args(["-config", &self.scratch.path("pebble.json"), "-dnsserver", &format!("127.0.0.1:{}", self.dns_port)])
            .env("PEBBLE_VA_NOSLEEP", if self.behaviour.longest_pause == 0 { "1" } else { "0" })
            .env("PEBBLE_VA_SLEEPTIME", self.behaviour.longest_pause.to_string())
            .env("PEBBLE_WFE_NONCEREJECT", self.behaviour.refused_nonces.to_string())
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("pebble runs (Debian: apt-get install pebble)");
        self.authority = Some(child);
        eventually("the authority answers", || {
            std::net::TcpStream::connect(("127.0.0.1", self.management)).is_ok()
                && std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Stops it.
    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.authority.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// The file with the certificate that its own API is trusted by.
    pub(crate) fn ca_file(&self) -> String {
        self.scratch.path("ca.pem")
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.scratch.path("pebble.log")).unwrap_or_default()
    }

    /// How many certificates it has issued since it was started.
    pub(crate) fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }

    /// How many accounts it has made.
    pub(crate) fn accounts(&self) -> usize {
        self.log().matches("accounts in memory").count()
    }

    /// From now on, no name has an address.
    pub(crate) fn forget_names(&self) {
        let mut connection = super::wire::Connection::open(self.dns_management);
        let body = br#"{"ip":""}"#;
        connection.write(super::wire::request("POST", "/set-default-ipv4", "localhost", &[], body));
        assert_eq!(connection.reply(false).unwrap().status, 200);
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.down();
        let _ = self.dns.kill();
        let _ = self.dns.wait();
    }
}

/// The certificate of its API, and that of who signed it.
fn make_certificates(scratch: &Scratch) {
    let authority = Authority::new();
    let (certificate, key) = authority.certificate(&["localhost"]);
    for (name, text) in [("ca.pem", &authority.certificate), ("api.pem", &certificate), ("api.key", &key)] {
        fs::write(scratch.path(name), text).unwrap();
    }
}
