//! What is said in a certificate (RFC 5280), as far as it is needed to renew it and to warn of a wrong one. Nothing is
//! verified here: clients do that.

/// CertificateInfo of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Serial number, as its DER integer has it.
    pub serial: Vec<u8>,
    /// Names the key that signed it, where the certificate says so.
    pub authority_key_id: Option<Vec<u8>>,
    /// Valid from then on, in seconds since 1970.
    pub not_before: u64,
    /// Valid until then, in seconds since 1970.
    pub not_after: u64,
    /// Issuer and subject are the same.
    pub is_self_issued: bool,
    /// The DNS names that it is for, lower case; a wildcard as it stands.
    pub names: Vec<String>,
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// Implicit tags within the two extensions that are read.
const KEY_ID: u8 = 0x80;
const DNS_NAME: u8 = 0x82;
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];

impl CertificateInfo {
    /// Reads a certificate in DER. `None` when it is none.
    pub fn of(der: &[u8]) -> Option<CertificateInfo> {
        let mut tbs = Der(Der(Der(der).expect(SEQUENCE)?).expect(SEQUENCE)?);
        tbs.optional(VERSION)?;
        let serial = tbs.expect(INTEGER)?.to_vec();
        tbs.expect(SEQUENCE)?;
        let issuer = tbs.expect(SEQUENCE)?;
        let mut validity = Der(tbs.expect(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject = tbs.expect(SEQUENCE)?;
        let mut facts = CertificateInfo {
            serial,
            authority_key_id: None,
            not_before,
            not_after,
            is_self_issued: issuer == subject,
            names: Vec::new(),
        };
        while let Some((tag, content)) = tbs.next()? {
            if tag == EXTENSIONS {
                facts.read_extensions(content)?;
            }
        }
        Some(facts)
    }

    fn read_extensions(&mut self, content: &[u8]) -> Option<()> {
        let mut list = Der(Der(content).expect(SEQUENCE)?);
        while !list.0.is_empty() {
            let mut extension = Der(list.expect(SEQUENCE)?);
            let id = extension.expect(OID)?;
            // Behind it there may be a flag that says how critical it is.
            let value = loop {
                match extension.next()?? {
                    (OCTETS, value) => break value,
                    _ => continue,
                }
            };
            match id {
                SUBJECT_ALTERNATIVE_NAME => {
                    let mut names = Der(Der(value).expect(SEQUENCE)?);
                    while let Some((tag, name)) = names.next()? {
                        if tag == DNS_NAME {
                            self.names.push(String::from_utf8_lossy(name).to_ascii_lowercase());
                        }
                    }
                }
                AUTHORITY_KEY_IDENTIFIER => {
                    self.authority_key_id = Der(Der(value).expect(SEQUENCE)?).optional(KEY_ID)?.map(<[u8]>::to_vec);
                }
                _ => {}
            }
        }
        Some(())
    }

    /// Is the certificate for `host`? A wildcard stands for one label (RFC 9525 section 6.3).
    pub fn is_for(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => Some(domain) == parent,
            None => name == host,
        })
    }
}

/// What is left of a DER encoding.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    /// The next element's tag and content. The outer `None` stands for a malformed one, the inner for the end.
    #[allow(clippy::option_option, reason = "malformed and finished differ")]
    fn next(&mut self) -> Option<Option<(u8, &'d [u8])>> {
        let [tag, rest @ ..] = self.0 else { return Some(None) };
        let (&first, rest) = rest.split_first()?;
        let (size, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(size)?;
        self.0 = rest;
        Some(Some((*tag, content)))
    }

    fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next()?.filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    #[allow(clippy::option_option, reason = "malformed and absent differ")]
    fn optional(&mut self, tag: u8) -> Option<Option<&'d [u8]>> {
        match self.0.first() {
            Some(found) if *found == tag => self.expect(tag).map(Some),
            _ => Some(None),
        }
    }

    /// RFC 5280 section 4.1.2.5: UTCTime until 2049, GeneralizedTime after that, in UTC and to the second.
    fn time(&mut self) -> Option<u64> {
        let (tag, text) = self.next()??;
        let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = text.split_at_checked(2)?;
                let year: i64 = year.parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = text.split_at_checked(4)?;
                (year.parse().ok()?, rest)
            }
            _ => return None,
        };
        if rest.len() != 10 || !rest.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
        let days = days_since_1970(year, part(0)?, part(2)?);
        u64::try_from(days * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?).ok()
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March, so that leap days come last.
pub fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn days_are_counted_across_leap_years() {
        for (date, days) in
            [((1970, 1, 1), 0), ((2000, 2, 29), 11_016), ((2000, 3, 1), 11_017), ((2026, 11, 24), 20_781)]
        {
            assert_eq!(days_since_1970(date.0, date.1, date.2), days, "{date:?}");
        }
    }

    #[test]
    fn a_certificate_tells_its_names_times_and_signer() {
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.distinguished_name.push(DnType::CommonName, "an authority");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = Issuer::new(authority, key);
        let mut leaf = CertificateParams::new(vec!["A.example.com".into(), "*.b.example".into()]).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, "a");
        leaf.use_authority_key_identifier_extension = true;
        leaf.not_before = date_time_ymd(2026, 11, 24);
        leaf.not_after = date_time_ymd(2060, 1, 2);
        let certificate = leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let facts = CertificateInfo::of(certificate.der()).unwrap();
        assert_eq!(facts.names, ["a.example.com", "*.b.example"]);
        assert_eq!((facts.not_before, facts.not_after), (1_795_478_400, 2_840_227_200));
        assert!(!facts.is_self_issued && !facts.serial.is_empty());
        assert_eq!(facts.authority_key_id.map(|id| id.len()), Some(20));
        let facts = CertificateInfo::of(certificate.der()).unwrap();
        for (host, good) in
            [("a.example.com", true), ("x.b.example", true), ("b.example", false), ("x.y.b.example", false)]
        {
            assert_eq!(facts.is_for(host), good, "{host}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_facts_and_does_no_harm() {
        let key = KeyPair::generate().unwrap();
        let good = CertificateParams::new(vec!["a.example.com".into()]).unwrap().self_signed(&key).unwrap();
        assert!(CertificateInfo::of(good.der()).unwrap().is_self_issued);
        for end in 0..good.der().len() {
            assert_eq!(CertificateInfo::of(&good.der()[..end]), None, "{end}");
        }
        for at in 0..good.der().len() {
            let mut bad = good.der().to_vec();
            bad[at] = bad[at].wrapping_add(0x7f);
            let _ = CertificateInfo::of(&bad);
        }
    }
}
