//! Certificates of tests, and what becomes of each that is not as it should be.

use std::fs;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

use crate::tls::FileError;
use crate::tls::pair::{Chain, Key, Pair};
use crate::tls::roots::Roots;

/// A CA of tests.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "CA of tests");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn certificate(&self) -> String {
        self.0.pem()
    }

    /// For these hosts or addresses, for ever.
    pub(crate) fn issue(&self, hosts: &[&str]) -> Issued {
        self.issue_for(hosts, 1975, 4096)
    }

    /// From the first moment of one year to that of another.
    pub(crate) fn issue_for(&self, hosts: &[&str], from: i32, to: i32) -> Issued {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let der = certificate.der().to_vec();
        Issued { certificate: certificate.pem(), key: key.serialize_pem(), der }
    }
}

/// Files in a directory of their own.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn pair(&self, issued: &Issued) -> Pair {
        let certificate = self.write("cert.pem", &issued.certificate);
        let key = self.write("key.pem", &issued.key);
        let chain = Chain::load(&certificate, "cert.pem", now()).unwrap();
        Pair::new(chain, Key::load(&key).unwrap()).unwrap()
    }

    pub(super) fn roots(&self, authority: &Authority) -> Roots {
        Roots::load(&self.write("ca.pem", authority.certificate())).unwrap()
    }
}

fn now() -> Timestamp {
    at("2026-11-25T12:00:00Z")
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn told<T: std::fmt::Debug>(result: Result<T, FileError>) -> String {
    result.unwrap_err().to_string()
}

const PEM_OF_NOTHING: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

// === What is wrong with files ===

#[test]
fn a_chain_that_can_not_be_used_is_refused_by_name() {
    let (files, authority) = (Files::new(), Authority::new());
    let good = authority.issue(&["a.test"]);
    let (old, young) = (
        authority.issue_for(&["a.test"], 2020, 2021),
        authority.issue_for(&["a.test"], 2030, 2040),
    );
    let half = &good.certificate[..good.certificate.len() / 2];
    let chain = |second: &str| format!("{}{second}", good.certificate);
    let cases = [
        (String::new(), "has no certificate"),
        ("garbage".repeat(100), "has no certificate"),
        (good.key.clone(), "has no certificate"),
        (half.to_owned(), "is not sound PEM"),
        (good.certificate.replacen('\n', "\n!", 1), "is not sound PEM"),
        (PEM_OF_NOTHING.to_owned(), "certificate 1 can't be read"),
        (chain(PEM_OF_NOTHING), "certificate 2 can't be read"),
        (old.certificate.clone(), "cert.pem has expired on 2021-01-01T00:00:00Z"),
        (young.certificate, "cert.pem is not valid before 2030-01-01T00:00:00Z"),
        (chain(&old.certificate), "cert.pem: certificate 2 of the chain has expired on 2021-01-01"),
    ];
    for (content, expected) in cases {
        let path = files.write("cert.pem", content);
        let told = told(Chain::load(&path, "cert.pem", now()));
        let is_named = told.contains(path.to_str().unwrap());
        assert!(is_named && told.contains(expected), "{expected}: {told}");
    }
    let missing = told(Chain::load(&files.0.path().join("none"), "none", now()));
    assert!(missing.contains("can't read") && missing.contains("No such file"), "{missing}");
    let directory = told(Chain::load(files.0.path(), "", now()));
    assert!(directory.contains("not a regular file"), "{directory}");
}

#[test]
fn a_key_that_can_not_be_used_is_refused_by_name_and_never_repeated() {
    let (files, good) = (Files::new(), Authority::new().issue(&["a.test"]));
    let lines: Vec<&str> = good.key.lines().collect();
    let unusable = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let encrypted = good.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let cases = [
        (String::new(), "has no private key"),
        (good.certificate.clone(), "has no private key"),
        (encrypted, "has an encrypted key"),
        (good.key.replace("-----END PRIVATE KEY-----", ""), "is not sound PEM"),
        (good.key.replacen('\n', "-----BEGIN \n", 1), "is not sound PEM"),
        (unusable.to_owned(), "has a key that can't be used"),
    ];
    let path = files.write("cert.pem", &good.certificate);
    for (content, expected) in cases {
        let chain = Chain::load(&path, "cert.pem", now()).unwrap();
        let key = files.write("key.pem", content);
        let told = told(Key::load(&key).and_then(|key| Pair::new(chain, key)));
        assert!(told.contains("key.pem") && told.contains(expected), "{expected}: {told}");
        assert!(!told.contains(lines[1]), "{told}");
    }
}

#[test]
fn a_key_must_be_that_of_its_certificate_and_may_be_in_its_file() {
    let (files, authority) = (Files::new(), Authority::new());
    let (one, other) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let load = |certificate: &str, key: &str| {
        let certificate = files.write("cert.pem", certificate);
        let chain = Chain::load(&certificate, "cert.pem", now())?;
        Pair::new(chain, Key::load(&files.write("key.pem", key))?)
    };
    assert!(load(&one.certificate, &one.key).is_ok());
    let told = told(load(&one.certificate, &other.key));
    assert!(told.contains("key.pem does not match certificate ") && told.ends_with("cert.pem"));
    // In either order, and in one file.
    for both in [one.certificate.clone() + &one.key, one.key.clone() + &one.certificate] {
        assert!(load(&both, &both).is_ok());
    }
}

#[test]
fn a_file_has_at_most_one_mebibyte() {
    let (files, authority) = (Files::new(), Authority::new());
    let certificate = authority.issue(&["a.test"]).certificate;
    for (length, is_read) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        let filling = "#".repeat(length - certificate.len());
        let path = files.write("cert.pem", format!("{certificate}{filling}"));
        let loaded = Chain::load(&path, "cert.pem", now());
        match loaded {
            Ok(_) => assert!(is_read),
            Err(error) => assert!(!is_read && error.to_string().contains("the limit of 1 MiB")),
        }
    }
}

#[test]
fn a_certificate_is_valid_from_its_first_second_to_its_last() {
    let files = Files::new();
    let issued = Authority::new().issue_for(&["a.test"], 2026, 2027);
    let path = files.write("cert.pem", issued.certificate);
    for (now, is_valid) in [
        ("2025-12-31T23:59:59.999Z", false),
        ("2026-01-01T00:00:00Z", true),
        ("2027-01-01T00:00:00Z", true),
        ("2027-01-01T00:00:00.999Z", true),
        ("2027-01-01T00:00:01Z", false),
    ] {
        assert_eq!(Chain::load(&path, "cert.pem", at(now)).is_ok(), is_valid, "{now}");
    }
    let passing = |hours: i64| {
        let now = at("2026-01-01T00:00:00Z") - SignedDuration::from_hours(hours);
        Chain::load(&path, "cert.pem", now).unwrap_err().is_passing()
    };
    assert!(passing(1) && !passing(2), "only a clock that is a little ahead is waited for");
    let expired = Chain::load(&path, "cert.pem", at("2028-01-01T00:00:00Z"));
    assert!(!expired.unwrap_err().is_passing());
}

#[test]
fn roots_are_one_certificate_or_more() {
    let (files, authority) = (Files::new(), Authority::new());
    let both = authority.certificate() + &Authority::new().certificate();
    let path = files.write("ca.pem", both);
    assert_eq!(Roots::load(&path).unwrap().store.len(), 2);
    for (content, expected) in
        [("", "ca.pem has no certificate"), (PEM_OF_NOTHING, "ca.pem: certificate 1 can't be read")]
    {
        let told = told(Roots::load(&files.write("ca.pem", content)));
        assert!(told.contains(expected), "{told}");
    }
    assert!(!Roots::public().store.is_empty());
}
