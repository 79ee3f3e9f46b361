//! `cutover audit`: threads that wait are found by what they wait for, and nobody is hurt by it.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{command, fails, ran, run};
use crate::harness::guard::{Home, decisions, looked, order, shown, traffic};
use crate::harness::{Backend, PROGRAM, Setup, eventually};

/// Whoever has no rights here.
const NOBODY: u32 = 65_534;
const BASELINE: &str = "/api/v1/baseline";

/// Threads of this process that wait, each by another primitive, or compute; they end with it.
struct Waiters {
    is_over: Arc<AtomicBool>,
    lock: Arc<Mutex<()>>,
    port: u16,
    threads: Vec<JoinHandle<()>>,
}

/// Holds a lock and lets threads wait while `watch` runs. Their names begin with `prefix`, since other
/// tests have such threads in this process too.
fn waiting<T>(prefix: &str, watch: impl FnOnce() -> T) -> T {
    let waiters = Waiters::start(prefix);
    let lock = waiters.lock.clone();
    let held = lock.lock().unwrap();
    let seen = watch();
    drop(held);
    waiters.end();
    seen
}

impl Waiters {
    fn start(prefix: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_over, lock) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(())));
        let mut waiters = Self { is_over, lock, port, threads: Vec::new() };
        let is_over = waiters.is_over.clone();
        waiters.thread(&format!("{prefix}-sleeps"), move || {
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
            }
        });
        let is_over = waiters.is_over.clone();
        waiters
            .thread(&format!("{prefix}-runs"), move || while !is_over.load(Ordering::Relaxed) {});
        // It reads until its peer, which is behind the next thread's `accept`, is gone.
        let mut reader = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (peer, _) = listener.accept().unwrap();
        waiters.thread(&format!("{prefix}-reads"), move || {
            assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
        });
        waiters.thread(&format!("{prefix}-accepts"), move || {
            let _peer = peer;
            listener.accept().unwrap();
        });
        let lock = waiters.lock.clone();
        waiters.thread(&format!("{prefix}-locks"), move || drop(lock.lock()));
        waiters
    }

    fn thread(&mut self, name: &str, body: impl FnOnce() + Send + 'static) {
        let builder = thread::Builder::new().name(name.to_owned());
        self.threads.push(builder.spawn(body).unwrap());
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn own() -> String {
    std::process::id().to_string()
}

/// The finding of the threads with this name and of this kind.
fn found<'a>(audit: &'a Value, name: &str, group: &str) -> &'a Value {
    let findings = audit["findings"].as_array().unwrap().iter();
    let mut own = findings.filter(|finding| finding["name"] == name && finding["group"] == group);
    own.next().unwrap_or_else(|| panic!("no {group} of {name}: {audit:#}"))
}

#[test]
fn each_thread_is_found_by_what_it_waits_for() {
    let json = ["audit", "--pid", &own(), "--for", "1s", "--json"];
    let (told, prose) = waiting("au", || (run(&json), run(&json[..5])));
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
    let audit: Value = serde_json::from_str(&told.out).unwrap();
    assert!(audit["seconds"].as_f64().unwrap() >= 1.0 && audit["rounds"].as_u64() > Some(2));
    for (name, group, primitive) in [
        ("au-sleeps", "sleep", "nanosleep"),
        ("au-locks", "lock", "futex"),
        ("au-reads", "socket_read", "recv"),
        ("au-runs", "running", "CPU"),
    ] {
        let finding = found(&audit, name, group);
        let told = (&finding["primitive"], &finding["threads"], &finding["site"]);
        assert_eq!(told, (&primitive.into(), &1.into(), &Value::Null), "{finding}");
        assert!(finding["samples"].as_u64() > Some(1), "{finding}");
        assert!(audit["groups"][group].as_u64() >= finding["samples"].as_u64(), "{audit}");
    }
    let cpu = found(&audit, "au-runs", "running")["cpu_seconds"].as_f64().unwrap();
    // A machine that is busy elsewhere leaves it little of a core.
    assert!((0.002..1.5).contains(&cpu), "{cpu}");
    // A thread that waits for a connection waits for work.
    assert!(!told.out.contains("au-accepts"), "{audit}");
    assert!(audit["idle"].as_u64() >= audit["rounds"].as_u64(), "{audit}");
    let process = &audit["processes"][0];
    assert_eq!(process["pid"], std::process::id());
    for (field, least) in
        [("threads", 6), ("descriptors", 5), ("rss_bytes", 1 << 20), ("stack_bytes", 6 * 4096)]
    {
        assert!(process[field].as_u64() >= Some(least), "{field}: {process}");
    }
    assert!(process["stack_bytes"].as_u64() < process["rss_bytes"].as_u64(), "{process}");
    let missing = audit["missing"].to_string();
    assert!(missing.contains("no Python is found"), "{missing}");
    assert_eq!(prose.code, 0, "{prose:?}");
    for part in ["[au-sleeps]", "nanosleep", "futex", "thread stacks", "not seen: call sites"] {
        assert!(prose.out.contains(part), "{part}: {}", prose.out);
    }
}

#[test]
fn a_process_that_is_not_there_and_wrong_usage_are_told_apart() {
    let none = "2147483647";
    fails(&["audit", "--pid", none], 1, &["there is no process 2147483647"]);
    for args in [
        &["audit"][..],
        &["audit", "--pid", "0"],
        &["audit", "--pid", none, "--for", "999ms"],
        &["audit", "--pid", none, "--for", "11m"],
        &["audit", "--pid", none, "--rate", "0"],
        &["audit", "--pid", none, "--rate", "201"],
    ] {
        fails(args, 2, &["error"]);
    }
}

#[test]
fn one_that_ends_meanwhile_is_told_as_far_as_it_went() {
    let mut sleeper = Command::new("sleep").arg("2").spawn().unwrap();
    let pid = sleeper.id().to_string();
    let told = run(&["audit", "--pid", &pid, "--for", "60s", "--json"]);
    assert!(sleeper.wait().unwrap().success(), "nobody disturbed it");
    let audit: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(found(&audit, "sleep", "sleep")["primitive"], "nanosleep");
    assert!(audit["missing"].to_string().contains("the process ended after"), "{audit}");
}

/// The program, run by nobody in particular: where that user can reach it.
fn as_nobody() -> (tempfile::TempDir, Command) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program: PathBuf = dir.path().join("cutover");
    if fs::hard_link(PROGRAM, &program).is_err() {
        fs::copy(PROGRAM, &program).unwrap();
    }
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).current_dir("/");
    (dir, command)
}

#[test]
fn what_the_kernel_forbids_is_said_with_what_helps() {
    // Who is not root may not read a process of root's, as the first one is.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let refused = if is_root {
        let (_dir, mut program) = as_nobody();
        ran(&program.args(["audit", "--pid", &own()]).output().unwrap())
    } else {
        run(&["audit", "--pid", "1"])
    };
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{refused:?}");
    for part in ["may not be read", "ermission denied", "as root", "CAP_SYS_PTRACE"] {
        assert!(refused.err.contains(part), "{part}: {refused:?}");
    }
}

#[test]
fn an_audit_is_added_to_the_baseline_and_kept_with_it() {
    let paths = [Backend::counting("legacy"), Backend::counting("async")];
    let setup = Setup::new(paths[0].address, paths[1].address).weight(0.0);
    let home = Home::new(&setup);
    let proxy = home.start();
    let admin = proxy.admin.to_string();
    let audit = || {
        waiting("kept", || {
            let args = ["audit", "--pid", &own(), "--for", "1s", "--baseline", "--admin", &admin];
            ran(&command(&args).output().unwrap())
        })
    };
    let refused = audit();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("no baseline is recorded"), "{refused:?}");
    // What it found is not lost.
    assert!(refused.out.contains("[kept-sleeps]"), "{refused:?}");
    let (status, _) = order(proxy.admin, BASELINE, &json!({ "seconds": 0.6 }).to_string());
    assert_eq!(status, 202);
    looked(proxy.admin);
    traffic(proxy.address, (4, &["/"]), || {
        eventually!(shown(proxy.admin, BASELINE)["recording"].is_null());
    });
    assert_eq!(shown(proxy.admin, BASELINE)["baseline"]["audit"], Value::Null);
    let taken = audit();
    assert_eq!((taken.code, taken.err.as_str()), (0, ""), "{taken:?}");
    let kept = shown(proxy.admin, BASELINE)["baseline"]["audit"].take();
    assert_eq!(found(&kept, "kept-sleeps", "sleep")["primitive"], "nanosleep");
    assert_eq!(home.document("baseline.json")["audit"], kept);
    let told = decisions(proxy.admin, "baseline");
    let words = told.last().unwrap()["text"].as_str().unwrap();
    assert!(words.contains(&format!("audit of process {}", own())), "{words}");
    drop(proxy);
    let proxy = home.start();
    assert_eq!(shown(proxy.admin, BASELINE)["baseline"]["audit"], kept);
    let admin = proxy.admin.to_string();
    for (args, part) in [
        (&["baseline", "show", "--admin", &admin][..], "[kept-sleeps] · nanosleep"),
        (&["report", "--admin", &admin], "Blocking calls"),
    ] {
        let told = run(args);
        assert!(told.code == 0 && told.out.contains(part), "{told:?}");
    }
}

#[test]
fn only_an_audit_is_added_to_a_baseline() {
    let home = Home::new(&crate::cli::nowhere());
    let proxy = home.start();
    let path = "/api/v1/baseline/audit";
    let at = |at: &str| {
        let groups = json!({ "sleep": 1 });
        json!({ "audit": {
            "at": at, "pid": 1, "seconds": 1.0, "rounds": 1, "idle": 0, "busy": 1, "torn": 0,
            "groups": groups, "findings": [], "processes": [], "missing": [],
        } })
    };
    for (body, status, why) in [
        ("{}".to_owned(), 400, "no audit in the body"),
        ("{\"audit\":{\"pid\":1}}".to_owned(), 400, "missing field"),
        (at("today").to_string(), 400, "not an RFC 3339 time"),
        (at("2026-11-24T01:10:00Z").to_string(), 409, "no baseline is recorded"),
    ] {
        let (got, problem) = order(proxy.admin, path, &body);
        assert_eq!(got, status, "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
}
