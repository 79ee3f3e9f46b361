//! An upgrade: a new process takes over the very sockets and the state of the old one, or it is as if nothing
//! had happened.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{Ran, run};
use crate::harness::guard::{Home, guard, is_share, order, shown};
use crate::harness::process::{PROGRAM, admin_get};
use crate::harness::{Backend, Client, Process, Scrape, Setup, eventually};

/// A proxy whose program is a link that can be made to lead elsewhere.
pub(crate) struct World {
    _backend: Backend,
    pub(crate) home: Home,
    pub(crate) setup: Setup,
    pub(crate) program: PathBuf,
    _dir: TempDir,
}

/// A process that is nobody's child any more; killed when dropped.
pub(crate) struct Heir(pub(crate) u32);

impl Drop for Heir {
    fn drop(&mut self) {
        // It may have ended.
        let _ =
            Command::new("kill").args(["-9", &self.0.to_string()]).stderr(Stdio::null()).status();
    }
}

impl World {
    pub(crate) fn new(tail: &str) -> Self {
        let backend = Backend::ok("legacy");
        let setup = Setup::new(backend.address, backend.address).tail(tail);
        let (home, dir) = (Home::new(&setup), TempDir::new().unwrap());
        let program = dir.path().join("cutover");
        symlink(PROGRAM, &program).unwrap();
        Self { _backend: backend, home, setup, program, _dir: dir }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["run", "--config"]).arg(self.home.file());
        command
    }

    pub(crate) fn spawn(&self) -> Process {
        Process::start_by(self.command(), TempDir::new().unwrap(), self.home.file())
    }

    /// Replaces the program as a package manager does: by a rename.
    fn install(&self, script: &str, mode: u32) {
        let fresh = self.program.with_extension("new");
        fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(fresh, &self.program).unwrap();
    }
}

pub(crate) fn upgrade(admin: SocketAddr, timeout: &str) -> Ran {
    run(&["upgrade", "--json", "--timeout", timeout, "--admin", &admin.to_string()])
}

/// An upgrade that has to succeed; the new process.
pub(crate) fn upgraded(admin: SocketAddr) -> Heir {
    let ran = upgrade(admin, "10s");
    assert_eq!(ran.code, 0, "{ran:?}");
    let done: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(done["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{done}");
    Heir(u32::try_from(done["pid"].as_u64().unwrap()).unwrap())
}

fn count(admin: SocketAddr, result: &str) -> f64 {
    let page = Scrape(admin_get(admin, "/metrics").text());
    page.sum("cutover_upgrades_total", &[("result", result)])
}

pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
}

/// Whether it is neither gone nor waiting to be looked after by whoever inherited it.
pub(crate) fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

/// The listening sockets of a process, by their inodes.
fn listening(pid: u32) -> Vec<String> {
    let listening: Vec<String> = ["tcp", "unix"]
        .iter()
        .flat_map(|kind| {
            let table = fs::read_to_string(format!("/proc/{pid}/net/{kind}")).unwrap();
            let is_tcp = *kind == "tcp";
            let rows = table
                .lines()
                .skip(1)
                .map(|row| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
            // State 0A listens; a unix socket that does has the flag 0x10000.
            let rows =
                rows.filter(|row| if is_tcp { row[3] == "0A" } else { row[3] == "00010000" });
            rows.map(|row| row[if is_tcp { 9 } else { 6 }].clone()).collect::<Vec<_>>()
        })
        .collect();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut own: Vec<String> = open
        .filter_map(|link| {
            let name = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
            listening.contains(&name).then_some(name)
        })
        .collect();
    own.sort();
    own.dedup();
    own
}

#[test]
fn the_new_process_takes_over_the_very_sockets_and_the_old_one_ends() {
    let world = World::new("");
    let mut process = world.spawn();
    let (address, admin) = (process.address, process.admin);
    let mut lasting = process.client();
    assert_eq!(lasting.get("/").header("connection"), None);
    let sockets = listening(process.pid());
    assert_eq!(sockets.len(), 3, "two workers' and the admin API's");

    let heir = upgraded(admin);
    assert_eq!(listening(heir.0), sockets);
    // A connection of before is told to end with its next reply, and new ones are the successor's.
    let last = lasting.get("/");
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(lasting.is_closed_silently());
    let mut fresh = Client::connect(address);
    assert_eq!(fresh.get("/").header("connection"), None);
    let opened =
        || Scrape(admin_get(admin, "/metrics").text()).sum("cutover_connections_total", &[]);
    assert!(opened() >= 1.0);
    assert_eq!((count(admin, "success"), count(admin, "failure")), (1.0, 0.0));
    assert_eq!(process.wait(), Some(0));
    assert_eq!(process.logged("upgrade begins").len(), 1);

    // It is as good as the first: the same by a signal, and nothing has leaked.
    signal(heir.0, "USR2");
    let told = || process.logged("upgraded: the new process has taken over");
    eventually!(told().len() == 2, "{}", process.said());
    let third = Heir(u32::try_from(told()[1]["fields"]["pid"].as_u64().unwrap()).unwrap());
    assert_eq!(listening(third.0), sockets);
    eventually!(count(admin, "success") == 2.0);
    assert_eq!(Client::connect(address).get("/").status, 200);
    let null = fs::read_link(format!("/proc/{}/fd/0", third.0)).unwrap();
    assert_eq!(null, Path::new("/dev/null"));
    drop((fresh, heir));
}

#[test]
fn a_new_process_that_comes_to_nothing_changes_nothing_and_says_why() {
    let world = World::new("");
    let process = world.spawn();
    let mut client = process.client();
    let config = fs::read_to_string(world.home.file()).unwrap();
    let cases: [(&str, u32, &str, &[&str]); 5] = [
        ("exit 0", 0o644, "5s", &["can't be started", "Permission denied"]),
        (
            "echo starts >&2; echo no such thing >&2; exit 7",
            0o755,
            "5s",
            &["exit status: 7", ": no such thing"],
        ),
        ("exec <&-; exec sleep 600", 0o755, "5s", &["has ended (signal: 9"]),
        ("exec sleep 600", 0o755, "500ms", &["was not ready in time"]),
        (&format!("exec {PROGRAM} \"$@\""), 0o755, "5s", &["exit status: 2", "listen_adress"]),
    ];
    let failures = cases.len();
    for (index, (script, mode, timeout, parts)) in cases.into_iter().enumerate() {
        world.install(script, mode);
        if index + 1 == failures {
            fs::write(world.home.file(), format!("listen_adress = 1\n{config}")).unwrap();
        }
        let ran = upgrade(process.admin, timeout);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{script}: {ran:?}");
        for part in ["error: the new process "].iter().chain(parts) {
            assert!(ran.err.contains(part), "{script}: {part} is not in {}", ran.err);
        }
        let response = client.get("/");
        assert_eq!((response.status, response.header("connection")), (200, None), "{script}");
        assert_eq!(process.client().get("/").status, 200, "{script}");
    }
    assert_eq!(count(process.admin, "failure"), 5.0);
    assert_eq!(process.logged("not upgraded: this process goes on").len(), 5);
    assert_eq!(process.admin_get("/readyz").status, 200);
    // The guard works again, too.
    let (status, _) = order(process.admin, "/api/v1/rollback", "{}");
    assert_eq!(status, 200);
}

#[test]
fn a_second_upgrade_is_refused_and_the_end_calls_the_first_one_off() {
    let world = World::new("");
    let mut process = world.spawn();
    let own = world.program.with_extension("pid");
    world.install(&format!("echo $$ >{}; exec sleep 600", own.display()), 0o755);
    let admin = process.admin;
    let first = thread::spawn(move || upgrade(admin, "60s"));
    let id = || fs::read_to_string(&own).ok().and_then(|id| id.trim().parse::<u32>().ok());
    eventually!(id().is_some(), "it is not started");
    let second = upgrade(admin, "60s");
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.err.contains("an upgrade is under way"), "{second:?}");
    let began = Instant::now();
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(first.join().unwrap().code, 1);
    assert!(!is_alive(id().unwrap()), "it is left behind");
}

#[test]
fn ramp_and_latch_are_carried_over_and_one_process_alone_writes() {
    let world = World::new("[guard]\nmode = \"observe\"\n[ramp]\nsteps = [0.1, 0.3, 1.0]\n");
    world.home.write(&world.setup.clone().weight(1.0));
    world.home.leave("helm.json", "{\"seq\":7,\"position\":0.3,\"is_paused\":true,\"approved\":1.0,\"latch\":null,\"change\":null}");
    let process = world.spawn();
    let admin = process.admin;
    let ramp = || guard(admin)["ramp"].take();
    let before = ramp();
    assert!(is_share(&before["position"], 0.3), "{before}");
    let effective = || {
        let labels = [("route", "default"), ("kind", "effective")];
        Scrape(admin_get(admin, "/metrics").text()).sum("cutover_weight", &labels)
    };
    let share = effective();
    let heir = upgraded(admin);
    for key in ["position", "paused", "awaits_approval", "next"] {
        assert_eq!(ramp()[key], before[key], "{key} of {before}");
    }
    assert!((effective() - share).abs() < 1e-9);

    let (status, decision) = order(admin, "/api/v1/rollback", "{}");
    assert_eq!(status, 200, "{decision}");
    let second = upgraded(admin);
    assert_eq!(guard(admin)["rollback"]["id"], decision["id"]);
    assert_eq!(effective(), 0.0);
    assert_eq!(order(admin, "/api/v1/rollback", "{}").0, 409, "it is rolled back already");

    // The old ones say nothing any more: not even that they drain.
    eventually!(process.logged("drained, nothing was cut off").len() == 2, "{}", process.said());
    let changes = world.home.changes();
    let of = |what: &str| changes.iter().filter(|change| change["what"] == what).count();
    assert_eq!((of("start"), of("rollback"), of("phase")), (3, 1, 0), "{changes:#?}");
    let decisions = shown(admin, "/api/v1/decisions")["decisions"].take();
    assert!(decisions.as_array().is_some_and(|all| all.contains(&decision)), "{decisions}");
    drop((heir, second));
}

#[test]
fn a_share_on_its_way_back_goes_on_from_where_it_is() {
    let world = World::new("[split]\npaced_return = \"60s\"\n");
    world.home.write(&world.setup.clone().weight(1.0));
    let process = world.spawn();
    let admin = process.admin;
    let effective = || {
        let labels = [("route", "default"), ("kind", "effective")];
        Scrape(admin_get(admin, "/metrics").text()).sum("cutover_weight", &labels)
    };
    assert_eq!(effective(), 1.0);
    world.home.write(&world.setup);
    eventually!(effective() < 0.99, "it does not go back");
    let began = Instant::now();
    let heir = upgraded(admin);
    let share = effective();
    // A second is a sixtieth.
    let walked = began.elapsed().as_secs_f64() / 60.0;
    assert!(share < 0.99 && share > 0.97 - walked, "{share} after {walked}");
    eventually!(effective() < share, "it stands still");
    drop(heir);
}

#[test]
fn a_config_with_other_workers_and_addresses_comes_into_force() {
    let world = World::new("");
    let process = world.spawn();
    let (address, spare) = (process.address, Backend::refused());
    let mut heirs = Vec::new();
    let mut admin = process.admin;
    for (workers, sockets) in [(4, 4), (1, 4), (2, 4)] {
        world.home.write(&world.setup.clone().workers(workers));
        heirs.push(upgraded(admin));
        let heir = heirs.last().unwrap();
        // With that of the admin API.
        // Those beside the given ones listen once a worker has them.
        eventually!(listening(heir.0).len() == sockets + 1, "{workers} workers");
        // Each of the queues is served.
        for _ in 0..32 {
            assert_eq!(Client::connect(address).get("/").status, 200, "{workers} workers");
        }
    }
    let added = format!("addresses = [\"127.0.0.1:0\", \"{spare}\"]\n");
    let text = world.setup.text();
    fs::write(world.home.file(), text.replacen("address = \"127.0.0.1:0\"\n", &added, 1)).unwrap();
    heirs.push(upgraded(admin));
    eventually!(Client::try_connect(spare).is_ok(), "the new address is not served");
    assert_eq!(Client::connect(spare).get("/").status, 200);
    assert_eq!(Client::connect(address).get("/").status, 200);
    // The first address goes, and the admin API moves.
    let moved = Backend::refused();
    let text = text.replacen("127.0.0.1:0", &spare.to_string(), 1);
    let text = text.replacen("127.0.0.1:0", &moved.to_string(), 1);
    fs::write(world.home.file(), text).unwrap();
    heirs.push(upgraded(admin));
    admin = moved;
    assert_eq!(admin_get(admin, "/readyz").status, 200);
    assert_eq!(Client::connect(spare).get("/").status, 200);
    eventually!(Client::try_connect(address).is_err(), "the old address is still open");
}
