//! The real program, for what needs signals, exit codes or a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use super::{Client, PATIENCE, Response, Scrape, eventually};

/// The real program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_cutover");

/// The real program; killed when dropped.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) file: PathBuf,
    child: Child,
    log: Arc<Mutex<Vec<serde_json::Value>>>,
    _dir: TempDir,
}

impl Process {
    /// Runs `file`, and waits until it serves.
    pub(crate) fn start(dir: TempDir, file: PathBuf) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--config"]).arg(&file);
        Self::start_by(command, dir, file)
    }

    /// Runs `command`, which runs `file`, and waits until it serves.
    pub(crate) fn start_by(mut command: Command, dir: TempDir, file: PathBuf) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let log = Arc::<Mutex<Vec<_>>>::default();
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        let serving = follow(lines, log.clone());
        let Ok((address, admin)) = serving.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            panic!("it does not serve; its log: {:#?}", log.lock());
        };
        Self { address, admin, file, child, log, _dir: dir }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
    }

    /// What the admin listener replies.
    pub(crate) fn admin_get(&self, target: &str) -> Response {
        admin_get(self.admin, target)
    }

    pub(crate) fn scrape(&self) -> Scrape {
        Scrape(self.admin_get("/metrics").text())
    }

    /// Log lines so far whose message is `message`.
    pub(crate) fn logged(&self, message: &str) -> Vec<serde_json::Value> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let found = log.iter().filter(|line| line["fields"]["message"] == message);
        found.cloned().collect()
    }

    /// All that it has logged so far.
    pub(crate) fn said(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Open file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.expect("the process runs").count()
    }

    /// Waits for its end; its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually!(
            {
                status = self.child.try_wait().unwrap();
                status.is_some()
            },
            "it does not end"
        );
        status.and_then(|status| status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps a log's lines; tells where it serves, once.
fn follow(
    lines: impl BufRead + Send + 'static,
    log: Arc<Mutex<Vec<serde_json::Value>>>,
) -> Receiver<(SocketAddr, SocketAddr)> {
    let (serving, served) = channel();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or(serde_json::Value::String(line));
            let fields: &serde_json::Value = &line["fields"];
            let address = |key: &str| fields[key].as_str().and_then(|text| text.parse().ok());
            if fields["message"] == "serving"
                && let (Some(address), Some(admin)) = (address("address"), address("admin"))
            {
                let _ = serving.send((address, admin));
            }
            log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    served
}

/// What an admin listener replies.
pub(crate) fn admin_get(admin: SocketAddr, target: &str) -> Response {
    let mut client = Client::connect(admin);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"));
    client.response()
}
