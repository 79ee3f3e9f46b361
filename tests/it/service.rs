//! What systemd hears (sd_notify(3)): a socket in its place hears it from the real program.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::harness::process::PROGRAM;
use crate::harness::{Backend, PATIENCE, Process, Setup};

/// The next message but for those that only say that all is well.
fn next(manager: &UnixDatagram) -> Vec<String> {
    loop {
        let message = heard(manager);
        if message != ["WATCHDOG=1"] {
            return message;
        }
    }
}

fn heard(manager: &UnixDatagram) -> Vec<String> {
    let mut message = [0; 4096];
    let length = manager.recv(&mut message).expect("it says nothing");
    let text = String::from_utf8(message[..length].to_vec()).unwrap();
    text.lines().map(ToOwned::to_owned).collect()
}

#[test]
fn systemd_hears_of_the_start_of_reloads_of_the_end_and_that_all_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let setup = Setup::new(Backend::refused(), Backend::refused()).workers(2);
    let file = dir.path().join("cutover.toml");
    fs::write(&file, setup.text()).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--config"]).arg(&file);
    command.env("NOTIFY_SOCKET", dir.path().join("notify")).env("WATCHDOG_USEC", "600000");
    let mut process = Process::start_by(command, dir, file.clone());
    assert_eq!(next(&manager), ["READY=1", "STATUS=serving"]);
    for _ in 0..3 {
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
    }
    for (text, status) in [
        (setup.text(), "serving"),
        ("async_weight = 2".to_owned(), "serving by the config before: the new one was refused"),
    ] {
        fs::write(&file, text).unwrap();
        process.signal("HUP");
        let [reloading, at] = &next(&manager)[..] else {
            panic!("it must say since when");
        };
        assert_eq!(reloading, "RELOADING=1");
        let at = at.strip_prefix("MONOTONIC_USEC=").and_then(|at| at.parse::<u64>().ok());
        assert!(at.is_some_and(|at| at > 0), "{at:?}");
        assert_eq!(next(&manager), ["READY=1".to_owned(), format!("STATUS={status}")]);
    }
    process.signal("TERM");
    assert_eq!(next(&manager), ["STOPPING=1", "STATUS=draining"]);
    assert_eq!(process.wait(), Some(0));
}
