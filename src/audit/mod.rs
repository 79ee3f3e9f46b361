//! What will block an event loop: watches a running process, and says at which lines its threads wait,
//! by what, and how much of their time.
//!
//! Reading is apart from judging: `procfs`, `python` and `target` read, `wait`, `frames`, `tally` and
//! `findings` are pure. The watched process is never stopped, written to or signalled; see `python` for
//! why that is enough. Linux only, as the whole program is.

pub mod findings;
pub mod frames;
pub mod procfs;
pub mod python;
pub mod tally;
pub mod target;
pub mod wait;

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::audit::findings::Audit;
use crate::audit::procfs::Folder;
use crate::audit::tally::Tally;
use crate::audit::target::Target;
use crate::guard::process;
use crate::record;

/// The shortest audit: below that a share says nothing.
pub const SPAN_MIN: Duration = Duration::from_secs(1);
/// The longest audit: counts stay small, and a process is not watched by mistake for good.
pub const SPAN_MAX: Duration = Duration::from_secs(600);
/// The most looks a second: one takes about a millisecond.
pub const RATE_MAX: u32 = 200;
/// At most a tenth of one core is spent on looking: after each look nine times its length is waited. On
/// a machine without a core to spare a look takes longer, and the service is left alone for longer.
const REST: u32 = 9;
/// How often new worker processes are looked for: they come at a restart, seldom else.
const RESCAN: Duration = Duration::from_secs(1);
/// Processes that are watched; a server with more workers than cores by far is a mistake.
const PROCESSES_MAX: usize = 256;
/// What is said of what could not be seen, in lines.
const NOTES_MAX: usize = 16;

/// What to audit.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The process, with all that descend from it.
    pub pid: u32,
    /// For how long.
    pub span: Duration,
    /// Looks a second.
    pub rate: u32,
}

/// Why there is no audit. Whoever asked for it can mend each of these.
#[derive(Debug, Error)]
pub enum AuditError {
    /// There is none.
    #[error("there is no process {0}, or it has ended")]
    NoProcess(u32),
    /// The kernel forbids it.
    #[error("process {pid} may not be read: {error}; {REMEDY}")]
    Forbidden {
        /// The process.
        pid: u32,
        /// The refusal.
        error: io::Error,
    },
}

/// What helps against the kernel's refusal.
const REMEDY: &str = "run this as the process's user or as root, or give it CAP_SYS_PTRACE \
                      (`setcap cap_sys_ptrace+ep` on the program, `--cap-add SYS_PTRACE` in a container)";

/// Watches a process; `progress` is told the time so far and the looks at busy threads.
///
/// # Errors
/// When there is no such process, or the kernel forbids it.
pub fn run(plan: Plan, mut progress: impl FnMut(Duration, u64)) -> Result<Audit, AuditError> {
    let shows_calls = access(plan.pid)?;
    let mut watch = Watch { plan, shows_calls, targets: Vec::new(), notes: Vec::new() };
    if !shows_calls {
        let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
        watch.note(hidden(scope.unwrap_or_default().trim()));
    }
    // Finding an interpreter takes a while; that is no part of the span.
    watch.rescan();
    let begin = Instant::now();
    let period = Duration::from_secs(1) / plan.rate.clamp(1, RATE_MAX);
    let (mut tally, mut rounds, mut scanned) = (Tally::default(), 0, Duration::ZERO);
    while begin.elapsed() < plan.span {
        // A rescan is looking, too, and earns its rest.
        let at = begin.elapsed();
        if at.saturating_sub(scanned) >= RESCAN {
            scanned = at;
            watch.rescan();
        }
        if !watch.is_root_alive() {
            watch.note(format!("the process ended after {:.1} s", at.as_secs_f64()));
            break;
        }
        watch.targets.iter_mut().for_each(|target| target.look(|look| tally.add(look)));
        rounds += 1;
        progress(begin.elapsed(), tally.busy());
        let took = begin.elapsed().saturating_sub(at);
        let rest = period.saturating_sub(took).max(took * REST);
        pause(rest.min(plan.span.saturating_sub(begin.elapsed())));
    }
    Ok(watch.finish(&tally, rounds, begin.elapsed()))
}

/// Whether the calls of a process may be seen: that needs what `ptrace` needs, its files need less.
fn access(pid: u32) -> Result<bool, AuditError> {
    let folder = Folder::of(pid);
    if folder.started().is_none() {
        return Err(AuditError::NoProcess(pid));
    }
    if let Err(error) = folder.mappings() {
        return Err(AuditError::Forbidden { pid, error });
    }
    Ok(folder.shows_calls(pid).is_ok())
}

/// `scope` is Yama's, `0` or nothing where that forbids nothing.
fn hidden(scope: &str) -> String {
    let scope = match scope {
        "" | "0" => String::new(),
        scope => format!(" (kernel.yama.ptrace_scope is {scope})"),
    };
    format!("system calls, call sites and stacks, which the kernel hides{scope}: {REMEDY}")
}

/// What is watched.
#[derive(Debug)]
struct Watch {
    plan: Plan,
    shows_calls: bool,
    targets: Vec<Target>,
    notes: Vec<String>,
}

impl Watch {
    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn is_root_alive(&self) -> bool {
        let root = self.targets.iter().find(|target| target.pid == self.plan.pid);
        root.is_some_and(Target::is_alive)
    }

    /// Takes up processes that are new, and lets those go that have ended.
    fn rescan(&mut self) {
        let root = self.plan.pid;
        self.targets.retain(|target| target.pid == root || target.is_alive());
        let all = process::family(root);
        for pid in all.into_iter().filter(|pid| *pid != std::process::id()) {
            if self.targets.iter().any(|target| target.pid == pid) {
                continue;
            }
            if self.targets.len() == PROCESSES_MAX {
                self.note(format!("processes beyond the first {PROCESSES_MAX}"));
                return;
            }
            // One that has ended in between is not there any more.
            if let Some((target, why)) = Target::open(pid, self.shows_calls) {
                if let Some(why) = why {
                    self.note(format!("Python stacks of process {pid}: {why}"));
                }
                self.targets.push(target);
            }
        }
    }

    fn finish(mut self, tally: &Tally, rounds: u64, took: Duration) -> Audit {
        let rate = rounds as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        if rate < 0.8 * f64::from(self.plan.rate) {
            let wanted = self.plan.rate;
            self.note(format!(
                "looks: {rate:.0} a second rather than {wanted}, to go easy on the machine"
            ));
        }
        if tally.left_out() > 0 {
            self.note(format!("{} looks at further call sites", tally.left_out()));
        }
        if self.shows_calls && !self.targets.iter().any(Target::has_stacks) {
            self.note("call sites: no Python is found in the process".to_owned());
        }
        let alive = self.targets.iter().filter(|target| target.is_alive());
        Audit {
            at: record::now(),
            pid: self.plan.pid,
            seconds: took.as_secs_f64(),
            rounds,
            idle: tally.idle(),
            busy: tally.busy(),
            torn: tally.torn(),
            groups: tally.groups().clone(),
            findings: tally.findings(),
            processes: alive.map(Target::usage).collect(),
            missing: self.notes,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a command that only waits")]
fn pause(span: Duration) {
    std::thread::sleep(span);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_said_with_its_reason_and_its_remedy() {
        for (scope, reason) in [("", "hides: run"), ("0", "hides: run"), ("1", "scope is 1): run")]
        {
            let told = hidden(scope);
            assert!(told.contains(reason) && told.contains("CAP_SYS_PTRACE"), "{told}");
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_refused_and_one_of_the_same_user_is_not() {
        assert!(matches!(access(u32::MAX), Err(AuditError::NoProcess(u32::MAX))));
        assert!(access(std::process::id()).unwrap());
    }
}
