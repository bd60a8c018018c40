//! Reads the fields of a certificate (RFC 5280) that are needed to renew it and to warn about a wrong one. Nothing is
//! verified here: clients do that.

use yasna::tags::TAG_UTCTIME;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq, Tag, TagClass};

/// Object identifiers of the extensions that are read (RFC 5280 sections 4.2.1.6 and 4.2.1.1).
const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];
const AUTHORITY_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 35];
/// Implicit tags within them.
const DNS_NAME: Tag = Tag { tag_class: TagClass::ContextSpecific, tag_number: 2 };
const KEY_ID: Tag = Tag { tag_class: TagClass::ContextSpecific, tag_number: 0 };

/// The fields of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Serial number: the content bytes of its DER integer.
    pub serial: Vec<u8>,
    /// Identifies the key that signed it (authority key identifier), if the certificate has one.
    pub authority_key_id: Option<Vec<u8>>,
    /// Start of the validity period, in seconds since 1970.
    pub not_before: u64,
    /// End of the validity period, in seconds since 1970.
    pub not_after: u64,
    /// Issuer and subject are the same.
    pub is_self_issued: bool,
    /// The DNS names that it is for, in lower case; wildcards such as `*.example.com` are not expanded.
    pub names: Vec<String>,
}

impl CertificateInfo {
    /// Reads a certificate in DER. `None` if it is malformed.
    pub fn of(der: &[u8]) -> Option<CertificateInfo> {
        yasna::parse_der(der, |reader| {
            reader.read_sequence(|certificate| {
                let info = certificate.next().read_sequence(read_tbs)?;
                let (_algorithm, _signature) = (certificate.next().read_der()?, certificate.next().read_der()?);
                Ok(info)
            })
        })
        .ok()
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

/// The part that is signed (RFC 5280 section 4.1.2).
fn read_tbs(tbs: &mut BERReaderSeq<'_, '_>) -> ASN1Result<CertificateInfo> {
    let _version = tbs.read_optional(|version| version.read_tagged(Tag::context(0), |number| number.read_u8()))?;
    let serial = tbs.next().read_tagged_der()?.value().to_vec();
    let _algorithm = tbs.next().read_der()?;
    let issuer = tbs.next().read_der()?;
    let (not_before, not_after) = tbs.next().read_sequence(|validity| {
        let not_before = read_time(validity.next())?;
        Ok((not_before, read_time(validity.next())?))
    })?;
    let subject = tbs.next().read_der()?;
    let _public_key = tbs.next().read_der()?;
    for unique_id in [1, 2] {
        tbs.read_optional(|id| id.read_tagged_implicit(Tag::context(unique_id), |bits| bits.read_bitvec_bytes()))?;
    }
    let (is_self_issued, names) = (issuer == subject, Vec::new());
    let mut info = CertificateInfo { serial, authority_key_id: None, not_before, not_after, is_self_issued, names };
    tbs.read_optional(|extensions| {
        extensions.read_tagged(Tag::context(3), |list| {
            list.read_sequence_of(|one| one.read_sequence(|e| info.read_extension(e)))
        })
    })?;
    Ok(info)
}

/// UTCTime until 2049, GeneralizedTime after that (RFC 5280 section 4.1.2.5), in seconds since 1970.
fn read_time(time: BERReader<'_, '_>) -> ASN1Result<u64> {
    let seconds = match time.lookahead_tag()? {
        TAG_UTCTIME => time.read_utctime()?.datetime().unix_timestamp(),
        _ => time.read_generalized_time()?.datetime().unix_timestamp(),
    };
    u64::try_from(seconds).map_err(|_| ASN1Error::new(ASN1ErrorKind::Invalid))
}

impl CertificateInfo {
    fn read_extension(&mut self, extension: &mut BERReaderSeq<'_, '_>) -> ASN1Result<()> {
        let id = extension.next().read_oid()?;
        let _is_critical = extension.read_optional(|flag| flag.read_bool())?;
        let value = extension.next().read_bytes()?;
        if id.components().as_slice() == SUBJECT_ALTERNATIVE_NAME {
            let names = yasna::parse_der(&value, |list| list.collect_sequence_of(|name| name.read_tagged_der()))?;
            let names = names.iter().filter(|name| name.tag() == DNS_NAME);
            self.names.extend(names.map(|name| String::from_utf8_lossy(name.value()).to_ascii_lowercase()));
        } else if id.components().as_slice() == AUTHORITY_KEY_IDENTIFIER {
            let parts = yasna::parse_der(&value, |list| list.collect_sequence_of(|part| part.read_tagged_der()))?;
            self.authority_key_id = parts.iter().find(|part| part.tag() == KEY_ID).map(|part| part.value().to_vec());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};

    use super::*;

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
        let info = CertificateInfo::of(certificate.der()).unwrap();
        assert_eq!(info.names, ["a.example.com", "*.b.example"]);
        assert_eq!((info.not_before, info.not_after), (1_795_478_400, 2_840_227_200));
        assert!(!info.is_self_issued && !info.serial.is_empty());
        assert_eq!(info.authority_key_id.map(|id| id.len()), Some(20));
        let info = CertificateInfo::of(certificate.der()).unwrap();
        for (host, good) in
            [("a.example.com", true), ("x.b.example", true), ("b.example", false), ("x.y.b.example", false)]
        {
            assert_eq!(info.is_for(host), good, "{host}");
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
