//! Reloads: each way of writing the file is noticed, nothing in flight is touched, and a file that
//! can't be used changes nothing.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cutover::config::ConfigError;
use tempfile::TempDir;

use crate::harness::{
    Backend, Latch, PROGRAM, Process, Proxy, Reply, Setup, directory, eventually, heavy,
    under_load, within,
};

/// Nine of ten edits must be in force by then, and each by ten times that: a machine that is busy
/// elsewhere may hold one up.
const SETTLED: Duration = Duration::from_millis(500);
/// Edits in each of five ways.
const EDITS: u32 = 60;

/// The weight of an edit; neighbours differ.
fn share(edit: u32) -> f64 {
    f64::from(edit % 100 + 1) / 200.0
}

// === Five ways to write a file ===

fn in_place(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

fn rename_over(file: &Path, text: &str) {
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, file).unwrap();
}

fn delete_and_create(file: &Path, text: &str) {
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, text).unwrap();
}

/// As Kubernetes mounts a ConfigMap: the file is a link into `..data`, a link to a directory whose
/// swap changes all files of the map at once.
fn swap_data(file: &Path, text: &str) {
    let dir = directory(file);
    let old = std::fs::read_link(dir.join("..data")).ok();
    let fresh = format!("..{:?}", Instant::now());
    let fresh = fresh.replace(|c: char| !c.is_ascii_digit() && c != '.', "_");
    std::fs::create_dir(dir.join(&fresh)).unwrap();
    std::fs::write(dir.join(&fresh).join("cutover.toml"), text).unwrap();
    symlink(&fresh, dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    if let Some(old) = old {
        std::fs::remove_dir_all(dir.join(old)).unwrap();
    }
}

/// The real program sees a single file, mounted over one in another directory: inotify tells it
/// nothing. Where mounting is not allowed, a hard link stands in, which keeps that.
fn start_on_single_file(setup: &Setup) -> (Process, std::path::PathBuf) {
    let dir = TempDir::new().unwrap();
    let (written, seen) = (dir.path().join("host.toml"), dir.path().join("etc"));
    std::fs::create_dir(&seen).unwrap();
    let seen = seen.join("cutover.toml");
    std::fs::write(&written, setup.text()).unwrap();
    std::fs::write(&seen, "").unwrap();
    let mount = "mount --bind \"$0\" \"$1\" && exec \"$2\" run --config \"$1\"";
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command.args([written.as_path(), &seen, Path::new(PROGRAM)]);
        command
    };
    let may_mount = unshare("mount --bind \"$0\" \"$1\"").output();
    if may_mount.is_ok_and(|output| output.status.success()) {
        println!("a bind mount in a mount namespace of its own");
        let process = Process::start_by(unshare(mount), dir, seen);
        return (process, written);
    }
    println!("mounting is not allowed: a hard link instead");
    std::fs::remove_file(&seen).unwrap();
    std::fs::hard_link(&written, &seen).unwrap();
    (Process::start(dir, seen), written)
}

// === Edits under load ===

/// Edits in one way; how long each took to be in force.
fn edit(
    setup: &Setup,
    file: &Path,
    way: fn(&Path, &str),
    weight: impl Fn() -> f64,
) -> Vec<Duration> {
    let edits = (0..EDITS).map(|edit| {
        let setup = setup.clone().weight(share(edit));
        way(file, &setup.text());
        let in_force = || (weight() - share(edit)).abs() < 1e-6;
        let took = within(10 * SETTLED, in_force);
        took.unwrap_or_else(|| panic!("edit {edit} to {} never took", share(edit)))
    });
    edits.collect()
}

const LABELS: &[(&str, &str)] = &[("kind", "configured"), ("route", "default")];

#[test]
fn three_hundred_edits_in_five_ways_are_in_force_in_500_ms_nine_of_ten_and_fail_no_request() {
    let _alone = heavy();
    let (legacy, async_) = (Backend::counting("a"), Backend::counting("b"));
    let setup = Setup::new(legacy.address, async_.address).weight(0.9);
    let plain = setup.start();
    let mapped = {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("cutover.toml");
        swap_data(&file, &setup.text());
        symlink("..data/cutover.toml", &file).unwrap();
        Proxy::start(dir, file)
    };
    let (mounted, source) = start_on_single_file(&setup);
    let began = Instant::now();
    let (setup, source, mounted) = (&setup, &source, &mounted);
    let addresses = [plain.address, mapped.address, mounted.address];
    let (served, took) = under_load(&addresses, || {
        thread::scope(|scope| {
            let in_mapped =
                scope.spawn(|| edit(setup, &mapped.file, swap_data, || mapped.weight()));
            let weight = || mounted.scrape().sum("cutover_weight", LABELS);
            let in_mounted = scope.spawn(move || edit(setup, source, in_place, weight));
            let in_plain = |way| edit(setup, &plain.file, way, || plain.weight());
            [
                ("in place", in_plain(in_place)),
                ("rename over", in_plain(rename_over)),
                ("delete and create", in_plain(delete_and_create)),
                ("..data swap", in_mapped.join().unwrap()),
                ("single file mount", in_mounted.join().unwrap()),
            ]
        })
    });
    let all = began.elapsed();
    println!("300 edits in {all:?}, requests served: {served:?}");
    for (way, mut took) in took {
        took.sort();
        let [half, nine_tenths] = [5, 9].map(|tenths| took[took.len() * tenths / 10 - 1]);
        let most = took[took.len() - 1];
        println!("{way}: in force after {half:?} (median), {nine_tenths:?} (P90), {most:?} (most)");
        assert!(nine_tenths <= SETTLED, "{way}: {nine_tenths:?}");
    }
    assert_eq!(served.iter().sum::<usize>(), legacy.hits() + async_.hits());
    assert!(legacy.hits() > 0 && async_.hits() > 0);
}

// === What is refused ===

fn last_reload(proxy: &Proxy) -> f64 {
    let name = "cutover_config_last_reload_successful";
    proxy.scrape().sum(name, &[])
}

#[test]
fn a_broken_file_changes_nothing_and_is_reported_with_line_and_column() {
    let (legacy, async_) = (Backend::ok("legacy"), Backend::ok("async"));
    let setup = Setup::new(legacy.address, async_.address).weight(1.0);
    let proxy = setup.start();
    let hash = proxy.app().publisher().current().config.hash.clone();
    let mut client = proxy.client();
    let good = setup.text();
    let broken = [
        // Each with what is reported, after the file's name.
        (good.replace("async_weight = 1.0", "async_weight = 1.5"), ":1:16: "),
        (good.replace("async_weight = 1.0", "async_wait = 1.0"), ":1:1: "),
        (good.replace("workers = 2", "workers = \"two\""), ":4:11: "),
        (good.replace("[admin]", "[admin"), ":6:"),
        (String::new(), ":1:1: "),
    ];
    for (text, place) in broken {
        in_place(&proxy.file, &text);
        eventually!(last_reload(&proxy) == 0.0, "{text}");
        let state = proxy.app().publisher().reload_state();
        let is_named = |fault: &String| fault.contains(&format!("cutover.toml{place}"));
        assert!(state.faults.iter().any(is_named), "{place} in {state:?}");
        assert_eq!(proxy.app().publisher().current().config.hash, hash);
        assert_eq!(client.get("/").text(), "async");
        in_place(&proxy.file, &good);
        eventually!(last_reload(&proxy) == 1.0);
        assert!(proxy.app().publisher().reload_state().faults.is_empty());
    }
}

#[test]
fn a_file_that_is_gone_changes_nothing_until_it_is_back() {
    let legacy = Backend::ok("legacy");
    let setup = Setup::new(legacy.address, legacy.address);
    let proxy = setup.start();
    std::fs::remove_file(&proxy.file).unwrap();
    eventually!(last_reload(&proxy) == 0.0);
    assert_eq!(proxy.client().get("/").status, 200);
    proxy.write(&setup.weight(0.5));
    eventually!(proxy.weight() == 0.5 && last_reload(&proxy) == 1.0);
}

#[test]
fn what_cannot_change_live_is_refused_by_name_with_all_else_in_the_file() {
    let legacy = Backend::ok("legacy");
    let setup = Setup::new(legacy.address, legacy.address);
    let proxy = setup.start();
    let changed = setup.clone().weight(0.5);
    let text = changed.text();
    let (other_listen, other_admin) = (Backend::refused(), Backend::refused());
    let anywhere = "address = \"127.0.0.1:0\"";
    let fixed = [
        ("listen.workers", text.replace("workers = 2", "workers = 3")),
        ("listen.address", text.replacen(anywhere, &format!("address = \"{other_listen}\""), 1)),
        (
            "admin.address",
            text.replace(
                &format!("[admin]\n{anywhere}"),
                &format!("[admin]\naddress = \"{other_admin}\""),
            ),
        ),
        ("state_dir", format!("state_dir = \"elsewhere\"\n{text}")),
        ("access_log.path", format!("{text}[access_log]\npath = \"stdout\"\n")),
    ];
    for (key, text) in fixed {
        in_place(&proxy.file, &text);
        match proxy.app().reload() {
            Err(ConfigError::Fixed { keys }) => assert_eq!(keys, [key]),
            other => panic!("{key}: {other:?}"),
        }
        let state = proxy.app().publisher().reload_state();
        assert!(state.faults[0].contains(key), "{state:?}");
        assert_eq!(last_reload(&proxy), 0.0);
        assert_eq!(proxy.weight(), 0.0, "the rest of the file was applied");
    }
    proxy.apply(&changed);
    assert_eq!(proxy.weight(), 0.5);
}

#[test]
fn reloads_at_once_leave_the_newest_file_in_force() {
    const ROUNDS: u32 = 300;
    let legacy = Backend::ok("legacy");
    let setup = Setup::new(legacy.address, legacy.address);
    let proxy = setup.start();
    for round in 0..ROUNDS {
        rename_over(&proxy.file, &setup.clone().weight(share(2 * round)).text());
        let newest = setup.clone().weight(share(2 * round + 1));
        thread::scope(|scope| {
            // Each asks as a SIGHUP, the watcher or a POST would: the last to read must win.
            let first = scope.spawn(|| proxy.app().reload());
            rename_over(&proxy.file, &newest.text());
            let second = proxy.app().reload();
            first.join().unwrap().and(second).unwrap();
        });
        let (now, wanted) = (proxy.weight(), newest.weight);
        assert!((now - wanted).abs() < 1e-6, "round {round}: {now}, not {wanted}");
    }
}

#[test]
fn sighup_reads_the_file_again() {
    let legacy = Backend::ok("legacy");
    let process = Setup::new(legacy.address, legacy.address).spawn();
    let success = [("result", "success")];
    let reloads = || process.scrape().sum("cutover_config_reloads_total", &success);
    let before = reloads();
    process.signal("HUP");
    eventually!(reloads() == before + 1.0, "{} reloads", reloads());
}

// === What a reload leaves alone ===

#[test]
fn a_request_in_flight_keeps_the_config_that_it_began_with() {
    let latch = Latch::default();
    let held = latch.clone();
    let old = Backend::start(move |_| Reply::ok("old").held_by(&held));
    let new = Backend::start(|_| Reply::nothing().then_hang()).expects_cuts();
    let proxy = Setup::new(old.address, old.address).start();
    let mut client = proxy.client();
    client.ask("/", "");
    eventually!(old.hits() == 1);
    // Another endpoint, another time limit: neither touches what is under way.
    let changed = Setup::new(new.address, new.address).legacy("response_timeout = \"200ms\"");
    proxy.apply(&changed);
    let late = proxy.client().get("/");
    assert_eq!(late.status, 504);
    assert_eq!((old.hits(), new.hits()), (1, 1));
    latch.open();
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "old"));
    // The connection outlives the reload; its next request sees the new config.
    assert_eq!(client.get("/").status, 504);
    eventually!(old.open() == 0, "connections to an endpoint that is gone");
}
