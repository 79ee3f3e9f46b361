//! Which line of a Python stack is to blame, and for what.
//!
//! Pure. The **call site** is the innermost frame in the user's code: not in the standard library, not
//! in `site-packages`, not in a start script, not frozen. An application that is installed as a package
//! has no such frame; then the site is the innermost frame of a package that is no server. A thread
//! without either waits for work if it waits at all: its stack ends in a server's loop or a pool's
//! worker. The scan ends at such a loop too, since what lies beyond it merely started the server.
//!
//! CPython has frames for Python functions only. What is written in C, such as `time.sleep`, shows as
//! the line that calls it, so the **primitive** comes from the kernel's view of the thread, made more
//! precise by the library functions between the site and it, and by the text of the line.

use crate::audit::wait::{Doing, Group};

/// A frame of a Python stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The file, as the interpreter knows it.
    pub file: String,
    /// The function; with its class from CPython 3.11 on.
    pub function: String,
    /// The line in the file, from 1; 0 if unknown.
    pub line: u32,
}

/// What a stack says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The index of the call site's frame; none of an empty stack.
    pub site: Option<usize>,
    /// The kind, as the stack corrects it.
    pub group: Group,
    /// The primitive.
    pub primitive: &'static str,
    /// The library function that the site calls, as in `urllib.request.urlopen`.
    pub through: Option<String>,
    /// Whether the thread waits for work and blocks nobody.
    pub is_idle: bool,
    /// Whether an event loop runs in this thread, outside of the site: it stands still meanwhile.
    pub is_on_loop: bool,
}

/// Loops that wait for work: a part of the file's path, and the function, or any. What they wait for is
/// no call that blocks.
const LOOPS: [(&str, &str); 18] = [
    ("/concurrent/futures/thread.py", "_worker"),
    ("/concurrent/futures/process.py", ""),
    ("/multiprocessing/pool.py", ""),
    ("/multiprocessing/popen_", ""),
    ("/socketserver.py", "serve_forever"),
    ("/asyncio/base_events.py", ""),
    ("/asyncio/runners.py", ""),
    ("/gunicorn/arbiter.py", ""),
    ("/gunicorn/workers/", ""),
    ("/uvicorn/server.py", ""),
    ("/uvicorn/supervisors/", ""),
    ("/hypercorn/", ""),
    ("/waitress/", ""),
    ("/cheroot/", ""),
    ("/werkzeug/serving.py", ""),
    ("/tornado/", ""),
    ("/celery/", ""),
    ("/gevent/", ""),
];

/// Frames that show that an event loop runs in their thread.
const EVENT_LOOPS: [&str; 3] = ["/asyncio/base_events.py", "/asyncio/runners.py", "/uvloop/"];

/// Packages of servers: code of theirs is the site only where nothing else is.
const SERVERS: [&str; 8] = [
    "/gunicorn/",
    "/uvicorn/",
    "/hypercorn/",
    "/waitress/",
    "/cheroot/",
    "/werkzeug/serving.py",
    "/tornado/",
    "/uvloop/",
];

/// Library functions that say more than the kernel: file, function (its last name), primitive, kind.
const PRIMITIVES: [(&str, &str, &str, Group); 19] = [
    ("/queue.py", "get", "queue.Queue.get", Group::Queue),
    ("/queue.py", "put", "queue.Queue.put", Group::Queue),
    ("/queue.py", "join", "queue.Queue.join", Group::Queue),
    // As Python 2 has it.
    ("/Queue.py", "get", "queue.Queue.get", Group::Queue),
    ("/Queue.py", "put", "queue.Queue.put", Group::Queue),
    ("/multiprocessing/queues.py", "get", "multiprocessing.Queue.get", Group::Queue),
    ("/multiprocessing/queues.py", "put", "multiprocessing.Queue.put", Group::Queue),
    ("/concurrent/futures/_base.py", "result", "concurrent.futures.Future.result", Group::Lock),
    ("/concurrent/futures/_base.py", "exception", "concurrent.futures.Future.result", Group::Lock),
    ("/concurrent/futures/_base.py", "wait", "concurrent.futures.wait", Group::Lock),
    ("/concurrent/futures/_base.py", "as_completed", "concurrent.futures.wait", Group::Lock),
    ("/threading.py", "join", "threading.Thread.join", Group::Lock),
    ("/threading.py", "acquire", "threading.Semaphore.acquire", Group::Lock),
    ("/threading.py", "wait_for", "threading.Condition.wait", Group::Lock),
    ("/threading.py", "wait", "threading.Condition.wait", Group::Lock),
    ("/subprocess.py", "", "subprocess", Group::Other),
    ("/ssl.py", "do_handshake", "ssl.SSLSocket.do_handshake", Group::SocketRead),
    ("/ssl.py", "read", "ssl.SSLSocket.read", Group::SocketRead),
    ("/socket.py", "getaddrinfo", "socket.getaddrinfo", Group::SocketRead),
];

/// What the text of a line calls, where a function in C leaves no frame: token, primitive, kind. The
/// third says for which kinds the token counts: what a line merely names it need not wait for.
const CALLS: [(&str, &str, &[Group]); 12] = [
    ("sqlite3.", "sqlite3", DATABASE),
    (".execute(", "sqlite3", DATABASE),
    (".executemany(", "sqlite3", DATABASE),
    (".executescript(", "sqlite3", DATABASE),
    (".fetchall(", "sqlite3", DATABASE),
    (".fetchone(", "sqlite3", DATABASE),
    (".commit(", "sqlite3", DATABASE),
    ("getaddrinfo(", "socket.getaddrinfo", NETWORK),
    ("gethostbyname", "socket.getaddrinfo", NETWORK),
    (".get(", "queue.SimpleQueue.get", LOCK),
    (".put(", "queue.Queue.put", LOCK),
    (".join(", "threading.Thread.join", LOCK),
];
const DATABASE: &[Group] = &[Group::Running, Group::Disk, Group::Sleep];
const NETWORK: &[Group] = &[Group::SocketRead, Group::Events];
const LOCK: &[Group] = &[Group::Lock];

/// Whose code a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    User,
    Package,
    Python,
}

/// Reads a stack, innermost frame first. `text` tells a line of a file where that can be read, and
/// `has_sqlite` whether the process has SQLite's module loaded.
#[must_use]
pub fn read(
    stack: &[Frame],
    doing: &Doing,
    has_sqlite: bool,
    text: impl FnOnce(&Frame) -> Option<String>,
) -> Reading {
    let site = site(stack);
    let passed = &stack[..site.unwrap_or(0)];
    let mut group = doing.group;
    let mut primitive = doing.primitive;
    let waits = !matches!(group, Group::Running | Group::Gil);
    if let Some(known) = passed.iter().rev().find_map(known).filter(|_| waits) {
        (primitive, group) = known;
    } else if let Some(frame) = stack.first().filter(|_| site == Some(0))
        && let Some(called) = text(frame).and_then(|text| called(&text, group, has_sqlite))
    {
        primitive = called;
        group = if called.starts_with("queue.") { Group::Queue } else { group };
    }
    let is_idle = waits && site.is_none_or(|site| is_worker(stack, site, group));
    // A server's own thread that waits for a client's bytes is held by it, hence not idle.
    let is_idle = is_idle && !matches!(group, Group::SocketRead | Group::SocketWrite | Group::Disk);
    // Of a server at work its own code is named, or else the library's.
    let package = || stack.iter().position(|frame| owner(&frame.file) == Owner::Package);
    let site = site.or_else(package).or_else(|| (!stack.is_empty()).then_some(0));
    let outer = &stack[site.map_or(stack.len(), |site| site + 1)..];
    Reading {
        site,
        group,
        primitive,
        through: site
            .and_then(|site| stack[..site].last())
            .map(name)
            .filter(|through| !is_same(through, primitive)),
        is_idle,
        is_on_loop: outer.iter().any(|frame| has_any(&frame.file, &EVENT_LOOPS)),
    }
}

/// The frame to blame, up to the loop that waits for work.
fn site(stack: &[Frame]) -> Option<usize> {
    let before_loop = stack.iter().position(is_loop).unwrap_or(stack.len());
    let reached = &stack[..before_loop];
    reached.iter().position(|frame| owner(&frame.file) == Owner::User).or_else(|| {
        reached.iter().position(|frame| {
            owner(&frame.file) == Owner::Package && !has_any(&frame.file, &SERVERS)
        })
    })
}

/// Whether a thread was made for nothing but this frame, and it waits on a queue there: a worker that
/// has no work.
fn is_worker(stack: &[Frame], site: usize, group: Group) -> bool {
    let starter = stack.get(site + 1);
    group == Group::Queue && starter.is_some_and(|frame| frame.file.ends_with("/threading.py"))
}

fn is_loop(frame: &Frame) -> bool {
    let is_one = LOOPS.iter().any(|(file, function)| {
        frame.file.contains(file) && (function.is_empty() || last(&frame.function) == *function)
    });
    is_one && owner(&frame.file) != Owner::User
}

fn has_any(file: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| file.contains(part))
}

fn owner(file: &str) -> Owner {
    let is_script = file.contains("/bin/") && !file.ends_with(".py");
    if file.contains("/site-packages/") || file.contains("/dist-packages/") {
        Owner::Package
    } else if file.starts_with('<') || is_script || library_path(file).is_some() {
        Owner::Python
    } else {
        Owner::User
    }
}

/// The path within the standard library: `/usr/lib/python3.12/queue.py` is `queue.py` there.
fn library_path(file: &str) -> Option<&str> {
    let at = ["/lib/python3", "/lib64/python3", "/lib/python2", "/lib64/python2"]
        .iter()
        .find_map(|folder| file.find(folder).map(|at| at + folder.len()))?;
    // The rest of the version, as `.12`, or `.13t` without the GIL.
    let (version, path) = file[at..].split_once('/')?;
    let is_version = version.chars().all(|c| c == '.' || c == 't' || c.is_ascii_digit());
    is_version.then_some(path)
}

fn known(frame: &Frame) -> Option<(&'static str, Group)> {
    let function = last(&frame.function);
    let found = PRIMITIVES.iter().find(|(file, name, ..)| {
        owner(&frame.file) == Owner::Python
            && frame.file.ends_with(file)
            && (name.is_empty() || *name == function)
    });
    let (.., primitive, group) = found?;
    // An event's wait is a condition's inside.
    let is_event = frame.function == "Event.wait";
    Some((if is_event { "threading.Event.wait" } else { primitive }, *group))
}

fn called(text: &str, group: Group, has_sqlite: bool) -> Option<&'static str> {
    let found =
        CALLS.iter().find(|(token, _, groups)| text.contains(token) && groups.contains(&group));
    // A sleep that the line asks for is none of the database's.
    let is_plain_sleep = group == Group::Sleep && text.contains("sleep(");
    let (_, primitive, _) = found.filter(|_| !is_plain_sleep)?;
    (*primitive != "sqlite3" || has_sqlite).then_some(*primitive)
}

/// A library function with its module: `urllib.request.urlopen`.
fn name(frame: &Frame) -> String {
    let file = frame.file.as_str();
    let packaged = ["/site-packages/", "/dist-packages/"]
        .iter()
        .find_map(|folder| file.split_once(folder).map(|(_, path)| path));
    let path = packaged.or_else(|| library_path(file)).unwrap_or(file);
    let path = path.trim_start_matches("<frozen ").trim_end_matches('>');
    let module = path.trim_end_matches(".py").trim_end_matches("/__init__").replace('/', ".");
    format!("{module}.{}", frame.function)
}

/// Whether two names are of one function. Before CPython 3.11 a frame does not tell its class.
fn is_same(through: &str, primitive: &str) -> bool {
    let module = |name: &str| name.split('.').next().map(str::to_lowercase);
    module(through) == module(primitive) && last(through) == last(primitive)
}

/// The function's own name: `get` of `Queue.get`.
fn last(function: &str) -> &str {
    function.rsplit('.').next().unwrap_or(function)
}

#[cfg(test)]
mod tests;
