//! What a backend takes of its machine: resident memory and threads.
//!
//! Read by process id where the backend runs on this machine, or from a page of metrics that it serves.
//! A server with worker processes is a tree of them, of which the operator knows the root: all that
//! descend from it are summed. Pages that processes share are counted in each, as `VmRSS` has them;
//! since before and after are read alike, that does not blur the comparison of a path with itself.
//! Nothing is fetched or kept here, and all of `/proc` is read by blocking calls: not for a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Processes of one backend that are summed; a server with more workers than that is unheard of.
const PROCESSES_MAX: usize = 4096;

/// The largest page of metrics that is parsed, in bytes.
pub const PAGE_MAX: usize = 4 << 20;

const MEMORY: &str = "process_resident_memory_bytes";

/// What exporters of various languages call the number of threads; the first that is there counts.
const THREADS: [&str; 4] =
    ["process_threads", "python_threads", "go_threads", "jvm_threads_current"];

/// Where a backend's readings come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The process with this id and all that descend from it.
    Pid(u32),
    /// A page in Prometheus's text format, at this URL.
    Metrics(String),
}

/// What a backend takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Threads, where they are told.
    pub threads: Option<u64>,
}

/// Reads a process and all that descend from it.
///
/// # Errors
/// In words, when there is no such process.
pub fn read_pid(pid: u32) -> Result<Reading, String> {
    read_tree(Path::new("/proc"), pid)
}

fn read_tree(proc: &Path, root: u32) -> Result<Reading, String> {
    let (mut rss_bytes, mut threads) =
        read_status(proc, root)?.ok_or_else(|| format!("process {root} has ended"))?;
    for pid in descendants(proc, root) {
        // One that ended since it was listed takes nothing any more.
        let (rss, count) = read_status(proc, pid).ok().flatten().unwrap_or_default();
        rss_bytes = u64::saturating_add(rss_bytes, rss);
        threads = u64::saturating_add(threads, count);
    }
    Ok(Reading { rss_bytes, threads: Some(threads) })
}

/// Memory in bytes and threads of one process; `None` for one that has ended and waits to be reaped.
fn read_status(proc: &Path, pid: u32) -> Result<Option<(u64, u64)>, String> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("status"))
        .map_err(|error| format!("process {pid} can't be read: {error}"))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let number = |name| field(name)?.split_whitespace().next()?.parse::<u64>().ok();
    // The kernel calls it kB and means 1,024 bytes.
    let kibibytes = number("VmRSS:");
    Ok(kibibytes.map(|size| (size.saturating_mul(1024), number("Threads:").unwrap_or(0))))
}

/// A process and all that descend from it, itself first.
#[must_use]
pub fn family(pid: u32) -> Vec<u32> {
    [pid].into_iter().chain(descendants(Path::new("/proc"), pid)).collect()
}

/// All that descend from `root`, without it. The order is that of the levels.
fn descendants(proc: &Path, root: u32) -> BTreeSet<u32> {
    let main_thread = proc.join(root.to_string()).join("task").join(root.to_string());
    // A kernel may be built without this file; only a scan of all processes helps then.
    let by_parent = (!main_thread.join("children").exists()).then(|| by_parent(proc));
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let children = match &by_parent {
            Some(known) => known.get(&pid).cloned().unwrap_or_default(),
            None => listed_children(proc, pid),
        };
        // An id that is reused while this runs could otherwise lead round in a circle.
        let fresh = children
            .into_iter()
            .filter(|child| *child != root && found.len() < PROCESSES_MAX && found.insert(*child));
        open.extend(fresh.collect::<Vec<_>>());
    }
    found
}

/// The children of all threads of a process: each process is the child of the thread that made it.
fn listed_children(proc: &Path, pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(proc.join(pid.to_string()).join("task")).into_iter().flatten();
    let lists = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    let ids = |list: String| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>();
    lists.flatten().flat_map(ids).collect()
}

/// The children of each process on this machine that has any.
fn by_parent(proc: &Path) -> BTreeMap<u32, Vec<u32>> {
    let mut children = BTreeMap::<u32, Vec<u32>>::new();
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent_of(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

/// The parent's id in a line such as `17 (a name) S 4 …`: the second word after the name, which is the
/// program's own choice and may hold blanks and brackets.
fn parent_of(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// Finds memory and threads on a page in Prometheus's text format.
///
/// Of several samples of memory the first without labels counts, or else the sum: an exporter that
/// stands for several processes tells them apart by a label.
///
/// # Errors
/// In words, when the page is too large or does not tell the memory.
pub fn parse_page(text: &str) -> Result<Reading, String> {
    if text.len() > PAGE_MAX {
        return Err(format!("the page is larger than the limit of {PAGE_MAX} bytes"));
    }
    let rss_bytes = total(text, MEMORY)?.ok_or_else(|| format!("the page has no {MEMORY}"))?;
    for name in THREADS {
        if let Some(threads) = total(text, name)? {
            return Ok(Reading { rss_bytes, threads: Some(threads) });
        }
    }
    Ok(Reading { rss_bytes, threads: None })
}

/// The first sample of a metric without labels, or else the sum of those with labels.
fn total(text: &str, metric: &str) -> Result<Option<u64>, String> {
    let mut sum = None;
    for sample in text.lines().filter_map(|line| sample(line, metric)) {
        let value = amount(sample.value)
            .ok_or_else(|| format!("the page's {metric} is `{}`: not an amount", sample.value))?;
        if !sample.is_labelled {
            return Ok(Some(value));
        }
        sum = Some(value.saturating_add(sum.unwrap_or(0)));
    }
    Ok(sum)
}

/// One line of a page.
struct Sample<'a> {
    is_labelled: bool,
    value: &'a str,
}

/// The sample in a line, if it is one of `metric`. A comment begins with `#`, and no name does.
fn sample<'a>(line: &'a str, metric: &str) -> Option<Sample<'a>> {
    let rest = line.trim_start().strip_prefix(metric)?;
    // What follows the name tells it from a longer one.
    let rest = rest.starts_with([' ', '\t', '{']).then(|| rest.trim_start())?;
    let labels = rest.strip_prefix('{');
    let rest = match labels {
        Some(labels) => &labels[labels_end(labels)? + 1..],
        None => rest,
    };
    let value = rest.split_whitespace().next().unwrap_or("");
    Some(Sample { is_labelled: labels.is_some(), value })
}

/// Where the bracket is that closes the labels: one in a value, which stands in quotes, does not.
fn labels_end(labels: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    labels.bytes().position(|byte| {
        let is_end = byte == b'}' && !is_quoted;
        is_quoted ^= byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

/// A whole number from 0 to 2^53, however it is written; more than that is no memory and not exact.
fn amount(text: &str) -> Option<u64> {
    let number: f64 = text.parse().ok()?;
    let is_amount = (0.0..=9_007_199_254_740_992.0).contains(&number);
    is_amount.then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// Whether the kernel of a made-up machine lists the children of each thread.
    #[derive(Clone, Copy, PartialEq)]
    enum Kernel {
        Lists,
        Lacks,
    }

    /// A process of a made-up machine: its id, its parent's, and its status.
    type Made<'a> = (u32, u32, &'a str);

    fn machine(kernel: Kernel, processes: &[Made<'_>]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("net")).unwrap();
        for (pid, parent, status) in processes {
            let dir = proc.path().join(pid.to_string());
            let thread = dir.join("task").join(pid.to_string());
            fs::create_dir_all(&thread).unwrap();
            fs::write(dir.join("status"), status).unwrap();
            fs::write(dir.join("stat"), format!("{pid} (a ) R 1 b) S {parent} 9 9")).unwrap();
            let children = processes.iter().filter(|(_, parent, _)| parent == pid);
            let list: String = children.map(|(child, ..)| format!("{child} ")).collect();
            if kernel == Kernel::Lists {
                fs::write(thread.join("children"), list).unwrap();
            }
        }
        proc
    }

    const ONE: &str = "Name:\tpython\nVmHWM:\t 9 kB\nVmRSS:\t    1024 kB\nThreads:\t4\n";
    const ZOMBIE: &str = "Name:\tpython\nState:\tZ (zombie)\nThreads:\t1\n";

    #[test]
    fn a_process_is_summed_with_all_that_descend_from_it_and_with_no_other() {
        let tree = [(7, 1, ONE), (8, 7, ONE), (9, 8, ONE), (10, 7, ZOMBIE), (11, 1, ONE)];
        for kernel in [Kernel::Lists, Kernel::Lacks] {
            let proc = machine(kernel, &tree);
            let expected = Reading { rss_bytes: 3 << 20, threads: Some(12) };
            assert_eq!(read_tree(proc.path(), 7), Ok(expected));
        }
    }

    #[test]
    fn a_circle_of_reused_ids_ends() {
        for kernel in [Kernel::Lists, Kernel::Lacks] {
            let proc = machine(kernel, &[(7, 9, ONE), (8, 7, ONE), (9, 8, ONE)]);
            assert_eq!(read_tree(proc.path(), 7).map(|read| read.rss_bytes), Ok(3 << 20));
        }
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_in_words() {
        let proc = machine(Kernel::Lists, &[(7, 1, ZOMBIE)]);
        assert_eq!(read_tree(proc.path(), 7), Err("process 7 has ended".to_owned()));
        let gone = read_tree(proc.path(), 8).unwrap_err();
        assert!(gone.starts_with("process 8 can't be read: No such file"), "{gone}");
    }

    #[test]
    fn a_real_process_is_read_with_its_child_until_it_ends() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'echo; read line'; true"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(shell.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        let read = read_pid(shell.id()).unwrap();
        assert_eq!(read.threads, Some(2));
        assert!(read.rss_bytes > 100_000, "{read:?}");
        let scanned = by_parent(Path::new("/proc"));
        assert_eq!(scanned[&shell.id()].len(), 1);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(read_pid(shell.id()).is_err());
    }

    #[test]
    fn a_page_tells_memory_and_threads() {
        let memory = "process_resident_memory_bytes";
        for (page, rss_bytes, threads) in [
            (format!("# TYPE {memory} gauge\n{memory} 1.5e+06\r\n"), 1_500_000, None),
            (format!("{memory}_max 9\n{memory}\t7 1700000000\n"), 7, None),
            (format!("{memory}{{a=\"}}\\\"\",b=\"\\\\\"}} 2\n{memory}{{}} 3\n"), 5, None),
            (format!("{memory}{{pid=\"1\"}} 2\n{memory} 3\n{memory} 4\n"), 3, None),
            (format!("go_threads 6\npython_threads 5\n{memory} 1\n"), 1, Some(5)),
            (format!("process_threads 4\njvm_threads_current 8\n  {memory} 1"), 1, Some(4)),
        ] {
            assert_eq!(parse_page(&page), Ok(Reading { rss_bytes, threads }), "{page}");
        }
    }

    #[test]
    fn a_page_that_tells_no_memory_is_an_error_in_words() {
        let memory = "process_resident_memory_bytes";
        for (page, fault) in [
            (String::new(), "the page has no process_resident_memory_bytes"),
            (format!("{memory}{{a=\"b 1\n"), "has no"),
            (format!("{memory} NaN"), "is `NaN`: not an amount"),
            (format!("{memory} -1"), "is `-1`: not an amount"),
            (format!("{memory} +Inf"), "is `+Inf`: not an amount"),
            (format!("{memory} "), "is ``: not an amount"),
            (format!("{memory} 1\ngo_threads x"), "go_threads is `x`: not an amount"),
            (" ".repeat(PAGE_MAX + 1), "larger than the limit of 4194304 bytes"),
        ] {
            let refused = parse_page(&page).unwrap_err();
            assert!(refused.contains(fault), "{fault}: {refused}");
        }
    }
}
