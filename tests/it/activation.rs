//! Under systemd: sockets that it gives, and what it hears of an upgrade.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::run;
use crate::harness::{Client, PATIENCE, Process, eventually, within};
use crate::upgrade::{Heir, World, is_alive, signal, upgraded};

#[test]
fn sockets_of_systemd_are_used_by_their_addresses_and_handed_on() {
    let world = World::new("");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("admin.sock");
    let admin = UnixListener::bind(&path).unwrap();
    let text = world.setup.clone().address(address).text();
    let unix = format!("address = \"unix:{}\"\n", path.display());
    let text = text.replacen("address = \"127.0.0.1:0\"\n", &unix, 1);
    fs::write(world.home.file(), &text).unwrap();
    // It waits in the queue from before the start on.
    let mut early = Client::connect(address);
    early.ask("/", "");
    let activate = |listener: OwnedFd, admin: OwnedFd| {
        let mut command = Command::new("sh");
        let script = "exec 3<&0 4<&1 </dev/null >/dev/null\n\
                      LISTEN_FDS=2 LISTEN_FDNAMES=web:admin LISTEN_PID=$$ exec \"$@\"";
        command.args(["-c", script, "sh"]).arg(&world.program).args(["run", "--config"]);
        command.arg(world.home.file()).stdin(listener).stdout(admin).stderr(Stdio::piped());
        command
    };
    let copy = |listener: &TcpListener| OwnedFd::from(listener.try_clone().unwrap());
    let mut child = activate(copy(&listener), admin.try_clone().unwrap().into()).spawn().unwrap();
    assert_eq!(early.response().status, 200);
    let status = |from: &str| run(&["status", "--json", "--admin", from]);
    let at = format!("unix:{}", path.display());
    assert_eq!(status(&at).code, 0);

    let ran = run(&["upgrade", "--json", "--admin", &at]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let done: Value = serde_json::from_str(&ran.out).unwrap();
    let heir = Heir(u32::try_from(done["pid"].as_u64().unwrap()).unwrap());
    assert_eq!(within(PATIENCE, || child.try_wait().unwrap().is_some()).map(|_| ()), Some(()));
    assert_eq!(Client::connect(address).get("/").status, 200);
    assert_eq!(status(&at).code, 0, "the old one took the path along");

    // A restart: it is not deaf, and who comes in between waits.
    signal(heir.0, "TERM");
    eventually!(!is_alive(heir.0), "it does not end");
    let mut between = Client::connect(address);
    between.ask("/", "");
    let mut child = activate(copy(&listener), admin.try_clone().unwrap().into()).spawn().unwrap();
    assert_eq!(between.response().status, 200);
    assert_eq!(Client::connect(address).get("/").status, 200);
    child.kill().unwrap();
    child.wait().unwrap();

    // Everybody could give orders through one that everybody may open.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let open = activate(copy(&listener), admin.try_clone().unwrap().into()).output().unwrap();
    let said = String::from_utf8_lossy(&open.stderr).into_owned();
    assert!(open.status.code() == Some(1) && said.contains("SocketMode=0600"), "{said}");

    // One that no address names is not left unserved in silence.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = activate(copy(&other), admin.into()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let expected =
        format!("a socket was given for {} (web), which no", other.local_addr().unwrap());
    assert!(said.contains(&expected), "{expected} is not in {said}");
}

#[test]
fn systemd_hears_whom_to_watch_and_not_that_the_service_stops() {
    let world = World::new("");
    let dir = TempDir::new().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = world.command();
    command.env("NOTIFY_SOCKET", dir.path().join("notify")).env("WATCHDOG_USEC", "600000");
    // As if it were its own id, which is another one's after an upgrade.
    command.env("WATCHDOG_PID", "1");
    let mut process = Process::start_by(command, TempDir::new().unwrap(), world.home.file());
    let heir = upgraded(process.admin);
    assert_eq!(process.wait(), Some(0));
    let mut heard = Vec::new();
    while !heard.iter().any(|line| line == "WATCHDOG=1") {
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).expect("it says nothing");
        let text = String::from_utf8_lossy(&message[..length]).into_owned();
        heard.extend(text.lines().map(str::to_owned));
    }
    heard.retain(|line| line != "STATUS=serving" && line != "WATCHDOG=1");
    heard.sort();
    let main = format!("MAINPID={}", heir.0);
    assert_eq!(heard, [main.as_str(), "READY=1", "READY=1"]);
}
