//! What an audit found, as it is printed, kept with the baseline and told in the report.
//!
//! Pure. File and function names and numbers only: no argument, no value, no line of source and no
//! command line, since any of them may hold a secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::wait::{Group, shown};

/// Findings that a baseline keeps: what comes after these is no more than noise.
pub const KEPT_MAX: usize = 20;
/// Processes that a baseline keeps, and notes.
const LISTED_MAX: usize = 64;

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// When it ended, RFC 3339.
    pub at: String,
    /// The process that was watched, with all that descend from it.
    pub pid: u32,
    /// For how long, in seconds.
    pub seconds: f64,
    /// How often each thread was looked at.
    pub rounds: u64,
    /// Looks at a thread that waited for work.
    pub idle: u64,
    /// Looks at a thread that computed or was blocked. Shares are of these.
    pub busy: u64,
    /// Looks during which a thread moved on, so that its stack and its wait may not belong together:
    /// they are in no other number.
    pub torn: u64,
    /// The busy ones by what the thread did.
    pub groups: BTreeMap<Group, u64>,
    /// Where threads were busy, most often first.
    pub findings: Vec<Finding>,
    /// What each process takes.
    pub processes: Vec<ProcessUse>,
    /// What could not be seen, and why, in words.
    pub missing: Vec<String>,
}

/// One place where threads were busy, and by what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The call site; absent where no stack can be read.
    pub site: Option<Site>,
    /// The threads' name, where there is no site.
    pub name: Option<String>,
    /// What kind of wait it is.
    pub group: Group,
    /// By what it waits, as in `time.sleep`.
    pub primitive: String,
    /// The library function that the site calls, if it is not the primitive itself.
    pub through: Option<String>,
    /// Looks at a thread that was here.
    pub samples: u64,
    /// Of all busy ones, 0 to 1.
    pub share: f64,
    /// Threads that were seen here.
    pub threads: u64,
    /// CPU time used by these threads between the look before and the one here, in seconds.
    pub cpu_seconds: f64,
    /// Whether it is in a thread whose event loop stands still meanwhile.
    pub on_event_loop: bool,
}

/// A line of the program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Site {
    /// The file, as the interpreter knows it.
    pub file: String,
    /// From 1; 0 if unknown.
    pub line: u32,
    /// The function; with its class from CPython 3.11 on.
    pub function: String,
}

/// What one process takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessUse {
    /// Its id.
    pub pid: u32,
    /// Its name, at most 15 characters.
    pub name: String,
    /// The version of its Python, if its stacks were read.
    pub python: Option<String>,
    /// Its threads, at the end.
    pub threads: u64,
    /// Open descriptors; absent where they can't be counted.
    pub descriptors: Option<u64>,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Resident memory of its threads' stacks, as far as their stacks are known.
    pub stack_bytes: Option<u64>,
    /// How many threads that is of.
    pub stacks: u64,
    /// Address space of the main thread's stack (`VmStk`).
    pub main_stack_bytes: u64,
    /// CPU time used meanwhile, in seconds.
    pub cpu_seconds: f64,
}

// === impl Audit ===

impl Audit {
    /// What a baseline keeps of it.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.findings.truncate(KEPT_MAX);
        self.processes.truncate(LISTED_MAX);
        self.missing.truncate(LISTED_MAX);
        self
    }

    /// Refuses what no audit says: it comes in over the admin API, and is shown to people.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.at.parse::<jiff::Timestamp>().is_err() {
            return Err(format!("at `{}` is not an RFC 3339 time", shown(&self.at)));
        }
        if self.findings.len() > KEPT_MAX
            || self.processes.len().max(self.missing.len()) > LISTED_MAX
        {
            return Err(format!(
                "more than {KEPT_MAX} findings, or {LISTED_MAX} processes or notes"
            ));
        }
        let texts = self.findings.iter().flat_map(Finding::texts);
        let names = self.processes.iter().map(|process| process.name.as_str());
        let mut all = texts.chain(names).chain(self.missing.iter().map(String::as_str));
        match all.find(|text| *text != shown(text)) {
            Some(text) => Err(format!("`{}` is too long, or has a control character", shown(text))),
            None => Ok(()),
        }
    }

    /// In one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let first = self.findings.first().map_or_else(
            || "no thread was busy".to_owned(),
            |finding| format!("first: {}", finding.words()),
        );
        let stacks: u64 = self.processes.iter().filter_map(|process| process.stack_bytes).sum();
        format!(
            "audit of process {} for {:.0} s: {} call sites, {first}; stacks {} KiB",
            self.pid,
            self.seconds,
            self.findings.len(),
            stacks >> 10,
        )
    }
}

// === impl Finding ===

impl Finding {
    /// Where it is: `orders/shop.py:88 query`, or the threads' name in brackets.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.site, &self.name) {
            (Some(site), _) => site.words(),
            (None, Some(name)) => format!("[{name}]"),
            (None, None) => "-".to_owned(),
        }
    }

    /// By what it waits: `socket.recv in urllib.request.urlopen`.
    #[must_use]
    pub fn cause(&self) -> String {
        match &self.through {
            Some(through) => format!("{} in {through}", self.primitive),
            None => self.primitive.clone(),
        }
    }

    /// Place and cause.
    #[must_use]
    pub fn words(&self) -> String {
        format!(
            "{} · {} · {:.0} % of busy samples · {} thread{}",
            self.place(),
            self.cause(),
            self.share * 100.0,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
        )
    }

    /// What it means for a migration to an event loop.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        match self.group {
            _ if self.on_event_loop => "blocks the event loop of its thread",
            _ if self.site.is_none() => "no call site can be told",
            Group::Running | Group::Gil => "holds the loop for as long as it computes",
            Group::Lock
            | Group::Queue
            | Group::SocketRead
            | Group::SocketWrite
            | Group::Sleep
            | Group::Disk
            | Group::Events
            | Group::Other => "blocks the loop if called from async code",
        }
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let site = self.site.iter().flat_map(|site| [site.file.as_str(), site.function.as_str()]);
        let more = [self.name.as_deref(), self.through.as_deref(), Some(self.primitive.as_str())];
        site.chain(more.into_iter().flatten())
    }
}

// === impl Site ===

impl Site {
    /// `orders/shop.py:88 query`: the file with the folder that it is in.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { file, line, function } = self;
        let mut parts = file.rsplitn(3, '/');
        let short = match (parts.next(), parts.next()) {
            (Some(name), Some(folder)) if !folder.is_empty() => format!("{folder}/{name}"),
            _ => file.clone(),
        };
        format!("{short}:{line} {function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(file: &str, group: Group) -> Finding {
        let site = Site { file: file.to_owned(), line: 88, function: "query".to_owned() };
        Finding {
            site: Some(site),
            name: None,
            group,
            primitive: "time.sleep".to_owned(),
            through: None,
            samples: 61,
            share: 0.614,
            threads: 10,
            cpu_seconds: 0.0,
            on_event_loop: false,
        }
    }

    #[test]
    fn a_finding_is_told_in_words() {
        for (file, told) in [
            ("/srv/app/orders/shop.py", "orders/shop.py:88 query"),
            ("/shop.py", "/shop.py:88 query"),
            ("shop.py", "shop.py:88 query"),
            ("orders/shop.py", "orders/shop.py:88 query"),
        ] {
            let words = finding(file, Group::Sleep).words();
            let rest = " · time.sleep · 61 % of busy samples · 10 threads";
            assert_eq!(words, format!("{told}{rest}"));
        }
        let through = Some("urllib.request.urlopen".to_owned());
        let named = Finding {
            site: None,
            name: Some("worker".to_owned()),
            threads: 1,
            through,
            ..finding("", Group::Lock)
        };
        let words =
            "[worker] · time.sleep in urllib.request.urlopen · 61 % of busy samples · 1 thread";
        assert_eq!(named.words(), words);
    }

    #[test]
    fn what_it_means_depends_on_the_loop_and_the_wait() {
        let plain = finding("a.py", Group::Sleep);
        assert_eq!(plain.meaning(), "blocks the loop if called from async code");
        let on_loop = Finding { on_event_loop: true, ..plain.clone() };
        assert_eq!(on_loop.meaning(), "blocks the event loop of its thread");
        assert_eq!(
            finding("a.py", Group::Gil).meaning(),
            "holds the loop for as long as it computes"
        );
        assert_eq!(Finding { site: None, ..plain }.meaning(), "no call site can be told");
    }

    #[test]
    fn only_what_an_audit_says_is_taken() {
        let at = "2026-11-24T01:10:00Z".to_owned();
        let many = vec![finding("a.py", Group::Sleep); KEPT_MAX + 1];
        let audit = Audit { at, findings: many, ..Audit::default() };
        assert!(audit.check().unwrap_err().contains("more than 20 findings"));
        let kept = audit.kept();
        assert_eq!((kept.check(), kept.findings.len()), (Ok(()), KEPT_MAX));
        for (file, fault) in [("a\u{1b}[2J.py", "control"), (&"x".repeat(257), "too long")] {
            let broken = Audit { findings: vec![finding(file, Group::Disk)], ..kept.clone() };
            assert!(broken.check().unwrap_err().contains(fault), "{file}");
        }
        let undated = Audit { at: "today".to_owned(), ..kept };
        assert!(undated.check().unwrap_err().contains("not an RFC 3339 time"));
    }
}
