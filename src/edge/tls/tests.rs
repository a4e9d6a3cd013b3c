use std::fs;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

const YEAR_2026: u64 = 1_780_000_000;

/// A folder with these files.
fn files(certificate: &str, key: &str) -> (TempDir, Files) {
    let dir = tempfile::tempdir().unwrap();
    let files = Files { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    fs::write(&files.certificate, certificate).unwrap();
    fs::write(&files.key, key).unwrap();
    (dir, files)
}

fn issued() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[track_caller]
fn refused(certificate: &str, key: &str) -> (TlsError, Files) {
    let (_dir, files) = files(certificate, key);
    (load(&files, YEAR_2026).expect_err("these are no good"), files)
}

#[test]
fn a_certificate_and_its_key_are_taken() {
    let (certificate, key) = issued();
    let (_dir, files) = files(&certificate, &key);
    let config = load(&files, YEAR_2026).unwrap().expect("there is TLS");
    assert_eq!(config.alpn_protocols, [b"http/1.1"]);
}

#[test]
fn no_files_are_no_tls_and_half_of_them_is_an_error() {
    assert!(load(&Files::default(), YEAR_2026).unwrap().is_none());
    for files in [
        Files { certificate: "c.pem".into(), ..Files::default() },
        Files { key: "k.pem".into(), ..Files::default() },
    ] {
        assert!(matches!(load(&files, YEAR_2026), Err(TlsError::Half)));
    }
}

#[test]
fn every_refusal_names_its_file() {
    let (certificate, key) = issued();
    let (_, other_key) = issued();
    let garbage = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let huge = " ".repeat(usize::try_from(TLS_FILE_BYTES_MAX).unwrap() + 1);
    for (certificate, key, of_certificate, expected) in [
        ("", key.as_str(), true, "has no certificate in it"),
        (key.as_str(), key.as_str(), true, "has no certificate in it"),
        (garbage, key.as_str(), true, "is not PEM"),
        (damaged, key.as_str(), true, "cannot be used"),
        (huge.as_str(), key.as_str(), true, "is larger than"),
        (certificate.as_str(), "", false, "has no private key in it"),
        (certificate.as_str(), certificate.as_str(), false, "has no private key in it"),
        (certificate.as_str(), other_key.as_str(), false, "is not that of the first certificate"),
    ] {
        let (error, files) = refused(certificate, key);
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        let named = if of_certificate { files.certificate } else { files.key };
        assert!(text.contains(named.to_str().unwrap()), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let missing = Files { certificate: "/nonexistent/c.pem".into(), key: "/nonexistent/k".into() };
    let text = load(&missing, YEAR_2026).unwrap_err().to_string();
    assert_eq!(text, "/nonexistent/c.pem cannot be read");
}

#[test]
fn a_certificate_out_of_its_time_is_recognised() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    // Years from 2050 on are written in another way.
    params.not_after = date_time_ymd(2060, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    for (now_s, expected) in [
        (1_500_000_000, Validity::Future),
        (YEAR_2026, Validity::Now),
        (2_900_000_000, Validity::Past),
    ] {
        assert_eq!(validity(certificate.der(), now_s), expected);
    }
    assert_eq!(validity(b"no certificate", YEAR_2026), Validity::Unknown);
}
