//! Certificates and keys in the config: what is wrong with them is said by name, changes are noticed
//! however they are made, and what was in force stays until there is something better.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::cli::{fails, nowhere, run, text};
use crate::harness::certificates::{Authority, Issued};
use crate::harness::process::admin_get;
use crate::harness::{Proxy, Setup, directory, eventually, heavy, within};

/// Nine of ten changes must be in force by then, and each by ten times that: a machine that is busy
/// elsewhere may hold one up.
const SETTLED: Duration = Duration::from_millis(500);
/// Changes in each way.
const CHANGES: usize = 10;
/// The proxy's own certificate.
const TLS: &str = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }";

fn with_tls() -> Setup {
    nowhere().listen(TLS)
}

/// Starts the proxy in a directory of its own, with what `place` puts there.
fn start(setup: &Setup, place: impl FnOnce(&Path)) -> Proxy {
    let dir = TempDir::new().unwrap();
    place(dir.path());
    let file = dir.path().join("cutover.toml");
    fs::write(&file, setup.text()).unwrap();
    Proxy::start(dir, file)
}

/// The first host of the proxy's first certificate in force.
fn host(proxy: &Proxy) -> Option<String> {
    let snapshot = proxy.app().publisher().current();
    let tls = snapshot.config.listen.tls.as_ref()?;
    tls.certificates()[0].names.first().cloned()
}

fn last_reload(proxy: &Proxy) -> f64 {
    proxy.scrape().sum("cutover_config_last_reload_successful", &[])
}

fn faults(proxy: &Proxy) -> Vec<String> {
    proxy.app().publisher().reload_state().faults
}

// === Ways to replace two files ===

fn in_place(dir: &Path, issued: &Issued) {
    issued.write(dir);
}

fn rename_over(dir: &Path, issued: &Issued) {
    for (name, text) in [("cert.pem", &issued.certificate), ("key.pem", &issued.key)] {
        fs::write(dir.join("new"), text).unwrap();
        fs::rename(dir.join("new"), dir.join(name)).unwrap();
    }
}

fn delete_and_create(dir: &Path, issued: &Issued) {
    fs::remove_file(dir.join("cert.pem")).unwrap();
    fs::remove_file(dir.join("key.pem")).unwrap();
    issued.write(dir);
}

/// As Kubernetes mounts a Secret: the files are links into `..data`, a link to a directory whose swap
/// changes all of them at once.
fn swap_data(dir: &Path, issued: &Issued) {
    let old = fs::read_link(dir.join("..data")).ok();
    let fresh = format!("..{:?}", Instant::now());
    let fresh = fresh.replace(|c: char| !c.is_ascii_digit() && c != '.', "_");
    fs::create_dir(dir.join(&fresh)).unwrap();
    issued.write(&dir.join(&fresh));
    symlink(&fresh, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old)).unwrap();
    }
}

fn place_data(dir: &Path, issued: &Issued) {
    swap_data(dir, issued);
    for name in ["cert.pem", "key.pem"] {
        symlink(format!("..data/{name}"), dir.join(name)).unwrap();
    }
}

#[test]
fn a_change_of_the_files_in_whichever_way_is_in_force_in_500_ms_nine_times_of_ten() {
    let _alone = heavy();
    let authority = Authority::new();
    let first = authority.issue(&["first.test"]);
    let plain: fn(&Path, &Issued) = in_place;
    for (way, place, change) in [
        ("in place", plain, plain),
        ("rename over", plain, rename_over),
        ("delete and create", plain, delete_and_create),
        ("..data swap", place_data, swap_data),
    ] {
        // Elsewhere, so that no event of the config's own directory helps.
        let elsewhere = TempDir::new().unwrap();
        place(elsewhere.path(), &first);
        let dir = elsewhere.path().display();
        let tls = format!("tls = {{ certificate = \"{dir}/cert.pem\", key = \"{dir}/key.pem\" }}");
        let proxy = start(&nowhere().listen(&tls), |_| {});
        let mut took = Vec::from_iter((0..CHANGES).map(|round| {
            let name = format!("{round}.test");
            change(elsewhere.path(), &authority.issue(&[&name]));
            let took = within(10 * SETTLED, || host(&proxy).as_ref() == Some(&name));
            took.unwrap_or_else(|| panic!("{way}: {name} never came: {:?}", faults(&proxy)))
        }));
        took.sort();
        let nine_tenths = took[CHANGES * 9 / 10 - 1];
        println!("{way}: in force after {nine_tenths:?} (P90)");
        assert!(nine_tenths <= SETTLED, "{way}: {nine_tenths:?}");
        eventually!((last_reload(&proxy), faults(&proxy)) == (1.0, Vec::new()));
    }
}

#[test]
fn a_certificate_before_its_key_is_refused_and_mended_by_the_key() {
    let authority = Authority::new();
    let proxy = start(&with_tls(), |dir| authority.issue(&["old.test"]).write(dir));
    let dir = directory(&proxy.file);
    let new = authority.issue(&["new.test"]);
    fs::write(dir.join("cert.pem"), &new.certificate).unwrap();
    eventually!(last_reload(&proxy) == 0.0);
    let told = faults(&proxy).join("\n");
    assert!(told.contains("`listen.tls.key`: key ") && told.contains("does not match"), "{told}");
    assert_eq!(host(&proxy).as_deref(), Some("old.test"));
    fs::write(dir.join("key.pem"), &new.key).unwrap();
    eventually!(host(&proxy).as_deref() == Some("new.test"));
    eventually!((last_reload(&proxy), faults(&proxy)) == (1.0, Vec::new()));
}

#[test]
fn a_certificate_that_expires_while_it_is_served_keeps_nobody_from_changing_a_weight() {
    let authority = Authority::new();
    let since_1970 = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let end = since_1970() + Duration::from_secs(2);
    let brief = authority.issue_until(&["a.test"], end);
    let proxy = start(&with_tls(), |dir| brief.write(dir));
    eventually!(since_1970() > end + Duration::from_secs(1));
    proxy.write(&with_tls().weight(0.5));
    eventually!(proxy.weight() == 0.5, "{:?}", faults(&proxy));
    // Another one that has expired is none to begin with.
    authority.issue_for(&["b.test"], 2020, 2021).write(directory(&proxy.file));
    eventually!(faults(&proxy).join("\n").contains("has expired on 2021-01-01"));
    assert_eq!((host(&proxy).as_deref(), proxy.weight()), (Some("a.test"), 0.5));
}

#[test]
fn a_file_that_is_named_before_it_is_there_is_waited_for() {
    let authority = Authority::new();
    let proxy = start(&nowhere(), |_| {});
    assert_eq!(host(&proxy), None);
    proxy.write(&with_tls());
    eventually!(last_reload(&proxy) == 0.0);
    let told = faults(&proxy).join("\n");
    assert!(told.contains("listen.tls.certificate") && told.contains("listen.tls.key"), "{told}");
    authority.issue(&["late.test"]).write(directory(&proxy.file));
    eventually!(host(&proxy).as_deref() == Some("late.test"));
    proxy.write(&nowhere());
    eventually!(host(&proxy).is_none() && last_reload(&proxy) == 1.0, "TLS does not go away");
}

#[test]
fn where_nothing_of_tls_changed_its_sessions_live_on() {
    let authority = Authority::new();
    let setup = with_tls().legacy_urls(&["https://127.0.0.1:1"]);
    let proxy = start(&setup, |dir| authority.issue(&["a.test"]).write(dir));
    let configs = || {
        let config = proxy.app().publisher().current().config.clone();
        let server = config.listen.tls.as_ref().unwrap().settings().clone();
        (server, config.paths.legacy.tls.config().clone())
    };
    let (server, client) = configs();
    proxy.apply(&setup.clone().weight(0.5));
    let (same_server, same_client) = configs();
    assert!(Arc::ptr_eq(&server, &same_server) && Arc::ptr_eq(&client, &same_client));
    proxy.apply(&setup.clone().listen(&format!("http2 = false\n{TLS}")));
    assert!(!Arc::ptr_eq(&server, &configs().0) && Arc::ptr_eq(&client, &configs().1));
    proxy.apply(&setup.legacy("protocol = \"http2\""));
    assert!(!Arc::ptr_eq(&client, &configs().1));
}

#[test]
fn metric_and_status_say_until_when_the_certificates_in_force_are_valid() {
    let authority = Authority::new();
    let proxy = start(&with_tls(), |dir| authority.issue_for(&["a.test"], 2020, 2100).write(dir));
    let labels = [("section", "listen"), ("certificate", "cert.pem")];
    let metric = "cutover_tls_certificate_expiry_timestamp_seconds";
    let expiry = || proxy.scrape().sum(metric, &labels);
    assert_eq!(expiry(), 4_102_444_800.0);
    let status = admin_get(proxy.admin, "/api/v1/status").text();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let shown = &status["certificates"][0];
    assert_eq!(shown["not_after"], "2100-01-01T00:00:00Z");
    assert_eq!((&shown["file"], &shown["names"][0]), (&"cert.pem".into(), &"a.test".into()));
    proxy.apply(&nowhere());
    assert_eq!(expiry(), 0.0);
}

// === What check says ===

/// What sections may follow, from line 5 on; an endpoint of the async path speaks TLS.
const HEAD: &str = "async_weight = 0.1\nlisten.address = \"127.0.0.1:0\"\n\
                    legacy.endpoints = [\"http://127.0.0.1:1\"]\n\
                    async.endpoints = [\"http://127.0.0.1:2\", \"https://a.test\"]\n";

/// The rest of a file, and what is said of it: where, and why.
const FAULTY: &[(&str, &str, &str)] = &[
    (
        "[listen.tls]\ncertificate = \"none.pem\"\nkey = \"key.pem\"",
        "6:15: `listen.tls.certificate`",
        "none.pem: No such file",
    ),
    (
        "[listen.tls]\ncertificate = \"cert.pem\"\nkey = \"none.pem\"",
        "7:7: `listen.tls.key`",
        "none.pem: No such file",
    ),
    (
        "[listen.tls]\ncertificate = \"empty.pem\"\nkey = \"key.pem\"",
        "`listen.tls.certificate`",
        "empty.pem has no certificate",
    ),
    (
        "[listen.tls]\ncertificate = \"old.pem\"\nkey = \"old-key.pem\"",
        "`listen.tls.certificate`",
        "old.pem has expired on 2021-01-01",
    ),
    (
        "[listen.tls]\ncertificate = \"cert.pem\"\nkey = \"old-key.pem\"",
        "`listen.tls.key`",
        "does not match certificate",
    ),
    ("[listen.tls]\ncertificate = \"cert.pem\"", "`listen.tls.key`", "is missing"),
    ("[listen.tls]\nkey = \"key.pem\"", "`listen.tls.certificate`", "is missing"),
    ("[listen.tls]\n", "`listen.tls.certificate`", "is missing"),
    ("[listen.tls]\ncertificate = \"\"\nkey = \"\"", "`listen.tls.certificate`", "is missing"),
    (
        "[listen.tls]\ncertificate = 7\nkey = \"key.pem\"",
        "6:15: `listen.tls.certificate`",
        "expected",
    ),
    (
        "listen.tls = { certificate = \"cert.pem\", key = \"key.pem\", ca = \"\" }",
        "5:59: `listen.tls.ca`",
        "is not a known key",
    ),
    (
        "listen.tls = { certificate = \"cert.pem\", key = \"key.pem\", client_ca = \"empty.pem\" }",
        "5:71: `listen.tls.client_ca`",
        "has no certificate",
    ),
    (
        "[listen.tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n[[listen.tls.certificates]]\ncertificate = \"nameless.pem\"\nkey = \"nameless-key.pem\"",
        "9:15: `listen.tls.certificates.certificate`",
        "names no host",
    ),
    (
        "[[listen.tls.certificates]]\nkey = \"key.pem\"",
        "`listen.tls.certificates.certificate`",
        "is missing",
    ),
    ("listen.proxy_protocol = true", "5:25: `listen.proxy_protocol`", "`trusted_proxies` is empty"),
    ("listen.proxy_protocol = 1", "5:25: `listen.proxy_protocol`", "expected"),
    (
        "listen.proxy_protocol = true\nlisten.trusted_proxies = [\"x\"]",
        "6:",
        "`listen.trusted_proxies`",
    ),
    ("listen.http2 = \"yes\"", "5:16: `listen.http2`", "expected"),
    ("async.protocol = \"h2\"", "5:18: `async.protocol`", "`http2`"),
    ("async.tls = { ca = \"none.pem\" }", "5:20: `async.tls.ca`", "none.pem: No such file"),
    ("async.tls = { certificate = \"cert.pem\" }", "`async.tls.key`", "is missing"),
    (
        "async.tls = { certificate = \"cert.pem\", key = \"old-key.pem\" }",
        "`async.tls.key`",
        "does not match",
    ),
    (
        "async.tls = { server_name = \"a b\" }",
        "5:29: `async.tls.server_name`",
        "neither a host name nor an address",
    ),
    ("async.tls = { sni = \"a\" }", "5:15: `async.tls.sni`", "is not a known key"),
    ("async.tls = 7", "5:13: `async.tls`", "must be a table"),
    (
        "legacy.tls = { server_name = \"a.test\" }",
        "5:30: `legacy.tls.server_name`",
        "no endpoint is https://",
    ),
    (
        "legacy.tls = { certificate = \"cert.pem\", key = \"key.pem\" }",
        "5:30: `legacy.tls.certificate`",
        "no endpoint is https://",
    ),
];

/// A directory with files, sound and not, and a config file of this text.
fn place(config: &str) -> (TempDir, String) {
    let (dir, authority) = (TempDir::new().unwrap(), Authority::new());
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    authority.issue(&["a.test"]).write(dir.path());
    let (old, nameless) = (authority.issue_for(&["a.test"], 2020, 2021), authority.issue(&[]));
    write("ca.pem", &authority.certificate());
    write("empty.pem", "");
    write("old.pem", &old.certificate);
    write("old-key.pem", &old.key);
    write("nameless.pem", &nameless.certificate);
    write("nameless-key.pem", &nameless.key);
    write("cutover.toml", config);
    let file = text(&dir.path().join("cutover.toml")).to_owned();
    (dir, file)
}

#[test]
fn check_names_the_key_the_file_and_the_fault() {
    for (rest, at, why) in FAULTY {
        let (_dir, path) = place(&format!("{HEAD}{rest}\n"));
        fails(&["check", &path], 2, &[&format!("{path}:"), at, why]);
        let told = run(&["check", &path]).err;
        let faults = told.lines().filter(|line| line.contains("cutover.toml:")).count();
        assert!(faults == 1 && !told.contains("BEGIN"), "{rest}: {told}");
    }
}

/// All keys of TLS at once.
const WHOLE: &str = "async_weight = 0.1\n[listen]\naddress = \"127.0.0.1:0\"\nhttp2 = false\n\
                     proxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\"]\n\
                     [listen.tls]\ncertificate = \"nameless.pem\"\nkey = \"nameless-key.pem\"\n\
                     client_ca = \"ca.pem\"\n[[listen.tls.certificates]]\n\
                     certificate = \"cert.pem\"\nkey = \"key.pem\"\n\
                     [legacy]\nendpoints = [\"http://127.0.0.1:1\"]\n\
                     [async]\nendpoints = [\"https://a.test\", \"http://127.0.0.1:2\"]\n\
                     protocol = \"http2\"\ntls = { ca = \"ca.pem\", server_name = \"b.test\", \
                     certificate = \"cert.pem\", key = \"key.pem\" }\n\
                     [split]\nkey = \"client_address\"\n";

#[test]
fn check_passes_what_is_sound_and_a_start_refuses_what_check_refuses() {
    let (_dir, path) = place(WHOLE);
    let ran = run(&["check", &path]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    // The list alone is enough.
    let own = "certificate = \"nameless.pem\"\nkey = \"nameless-key.pem\"\n";
    let (_dir, path) = place(&WHOLE.replace(own, ""));
    assert_eq!(run(&["check", &path]).code, 0);
    let (_dir, path) = place(&WHOLE.replace("\"cert.pem\"", "\"old.pem\""));
    for command in [&["check", &path][..], &["run", "--config", &path]] {
        fails(command, 2, &["`listen.tls.certificates.certificate`", "`async.tls.certificate`"]);
    }
}

#[test]
fn a_command_that_only_asks_what_the_file_says_reads_no_key() {
    let (dir, path) = place(WHOLE);
    fs::remove_file(dir.path().join("key.pem")).unwrap();
    fails(&["check", &path], 2, &["`listen.tls.certificates.key`", "`async.tls.key`"]);
    let ran = run(&["explain", "--key", "192.0.2.1", "--config", &path]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
