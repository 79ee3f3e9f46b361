//! Stacks, as services have them, and which line is to blame.

use super::*;

const STD: &str = "/usr/lib/python3.11/";
const VENV: &str = "/srv/venv/lib/python3.11/site-packages/";

/// Frames from `file:line function`, innermost first; `~` is the standard library, `@` a package.
fn stack(frames: &[&str]) -> Vec<Frame> {
    let frame = |text: &&str| {
        let (place, function) = text.rsplit_once(' ').unwrap();
        let (file, line) = place.rsplit_once(':').unwrap();
        let file = file.replace('~', STD).replace('@', VENV);
        Frame { file, function: function.to_owned(), line: line.parse().unwrap() }
    };
    frames.iter().map(frame).collect()
}

const POOL: [&str; 4] = [
    "~concurrent/futures/thread.py:83 _worker",
    "~threading.py:982 Thread.run",
    "~threading.py:1045 Thread._bootstrap_inner",
    "~threading.py:1002 Thread._bootstrap",
];

/// The frames, and a worker of gunicorn's pool outside of them.
fn in_gunicorn(inner: &[&str]) -> Vec<Frame> {
    let server = ["@gunicorn/workers/gthread.py:350 ThreadWorker.handle"];
    let run = ["~concurrent/futures/thread.py:58 _WorkItem.run"];
    stack(&[inner, &server, &run, &POOL].concat())
}

fn doing(group: Group) -> Doing {
    let primitive = match group {
        Group::Running => "CPU",
        Group::Sleep => "time.sleep",
        Group::Lock => "threading.Lock.acquire",
        Group::SocketRead => "socket.recv",
        Group::SocketWrite => "socket.send",
        Group::Gil | Group::Queue | Group::Disk | Group::Events | Group::Other => "other",
    };
    Doing { group, primitive }
}

fn reading(stack: &[Frame], group: Group, text: &str) -> Reading {
    read(stack, &doing(group), true, |_| Some(text.to_owned()))
}

#[test]
fn the_site_is_the_innermost_line_of_the_users_code() {
    let app = "/srv/app/legacy/app.py:140 app";
    for (inner, group, text, site, primitive, through) in [
        (&["/srv/app/shop.py:88 query", app][..], Group::Sleep, "", 0, "time.sleep", None),
        (&["~queue.py:171 get", app], Group::Lock, "", 1, "queue.Queue.get", None),
        (
            &["~threading.py:320 Condition.wait", "~queue.py:171 Queue.get", app],
            Group::Lock,
            "",
            2,
            "queue.Queue.get",
            None,
        ),
        (
            &["~threading.py:320 Condition.wait", "~threading.py:629 Event.wait", app],
            Group::Lock,
            "",
            2,
            "threading.Event.wait",
            None,
        ),
        (
            &["~socket.py:706 readinto", "@requests/api.py:73 get", app],
            Group::SocketRead,
            "",
            2,
            "socket.recv",
            Some("requests.api.get"),
        ),
        (&["<frozen codecs>:319 decode", app], Group::Running, "", 1, "CPU", Some("codecs.decode")),
        (&["~Queue.py:168 get", app], Group::Lock, "", 1, "queue.Queue.get", None),
        (&["~json/__init__.py:9 dumps", app], Group::Running, "", 1, "CPU", Some("json.dumps")),
        (&[app], Group::Lock, "job = q.get()", 0, "queue.SimpleQueue.get", None),
        (&[app], Group::Lock, "lock.acquire()", 0, "threading.Lock.acquire", None),
        (&[app], Group::Disk, "db.execute(sql)", 0, "sqlite3", None),
        (&[app], Group::Running, "db.execute(sql)", 0, "sqlite3", None),
        // SQLite itself sleeps while another has its lock.
        (&[app], Group::Sleep, "db.execute(sql)", 0, "sqlite3", None),
        (&[app], Group::Sleep, "time.sleep(db.execute(sql))", 0, "time.sleep", None),
        (&[app], Group::SocketRead, "db.execute(sql)", 0, "socket.recv", None),
    ] {
        let found = reading(&in_gunicorn(inner), group, text);
        let told = (found.site, found.primitive, found.through.as_deref());
        assert_eq!(told, (Some(site), primitive, through), "{inner:?} {text}");
        assert!(!found.is_idle && !found.is_on_loop, "{inner:?}");
    }
    let without = |_: &Frame| Some("db.execute(sql)".to_owned());
    let plain = read(&in_gunicorn(&[app]), &doing(Group::Sleep), false, without);
    assert_eq!(plain.primitive, "time.sleep");
}

#[test]
fn who_waits_for_work_is_idle_and_who_works_or_waits_for_a_client_is_not() {
    let main = "/srv/app/main.py:9 <module>";
    let select = "~selectors.py:468 EpollSelector.select";
    let get = "~queue.py:171 Queue.get";
    let loop_ = "~socketserver.py:235 BaseServer.serve_forever";
    let gthread = "@gunicorn/workers/gthread.py:398 ThreadWorker.run";
    let script = "/srv/venv/bin/gunicorn:8 <module>";
    let thread = "~threading.py:982 Thread.run";
    for (frames, group, is_idle) in [
        (&POOL[..], Group::Lock, true),
        (&POOL, Group::Running, false),
        (&[select, gthread, script], Group::Events, true),
        (&[select, gthread, script], Group::Running, false),
        (&["@gunicorn/arbiter.py:357 Arbiter.sleep", script], Group::Sleep, true),
        (&[select, loop_, main], Group::Events, true),
        (&["~socketserver.py:755 finish_request", main], Group::SocketRead, false),
        (
            &["@gunicorn/http/unreader.py:67 SocketUnreader.chunk", gthread],
            Group::SocketRead,
            false,
        ),
        // A worker of the user's own, and a queue in the midst of work.
        (&[get, "/srv/app/jobs.py:5 work", thread, POOL[3]], Group::Lock, true),
        (&[get, "/srv/app/jobs.py:5 ask", main], Group::Lock, false),
        (&["/srv/app/jobs.py:5 work", thread], Group::Sleep, false),
        (&[get, "@anyio/_backends/_asyncio.py:953 WorkerThread.run", POOL[2]], Group::Lock, true),
    ] {
        assert_eq!(reading(&stack(frames), group, "").is_idle, is_idle, "{frames:?} {group:?}");
    }
}

#[test]
fn a_site_within_an_event_loop_makes_it_stand_still() {
    let site = "/srv/app/shop.py:88 query";
    let asyncio = "~asyncio/base_events.py:607 BaseEventLoop.run_forever";
    let runner = "~asyncio/runners.py:118 Runner.run";
    for (frames, is_on_loop) in [
        (&[site, "~asyncio/events.py:80 Handle._run", asyncio][..], true),
        (&[site, "@starlette/routing.py:66 app", runner, "@uvicorn/server.py:65 Server.run"], true),
        (&[site, POOL[0]], false),
        (&[site], false),
    ] {
        let found = reading(&stack(frames), Group::Sleep, "");
        assert_eq!((found.site, found.is_on_loop, found.is_idle), (Some(0), is_on_loop, false));
    }
}

#[test]
fn code_of_a_package_is_to_blame_where_the_application_is_one_too() {
    let sleep = reading(&in_gunicorn(&["@orders/views.py:9 show"]), Group::Sleep, "");
    assert_eq!((sleep.site, sleep.is_idle), (Some(0), false));
    // A server's code only where there is nothing else.
    let send = in_gunicorn(&["@gunicorn/http/wsgi.py:300 write", "@orders/views.py:9 show"]);
    assert_eq!(reading(&send, Group::SocketWrite, "").site, Some(1));
    let send = in_gunicorn(&["@gunicorn/http/wsgi.py:300 write"]);
    let found = reading(&send, Group::SocketWrite, "");
    assert_eq!((found.site, found.is_idle), (Some(0), false));
    assert_eq!(reading(&stack(&POOL), Group::Running, "").site, Some(0));
    assert_eq!(reading(&[], Group::Running, "").site, None);
}

#[test]
fn whose_a_file_is_depends_on_where_it_lies() {
    for (file, whose) in [
        ("/srv/app/shop.py", Owner::User),
        ("app.py", Owner::User),
        ("/srv/lib/python3d/app.py", Owner::User),
        ("/srv/bin/tool.py", Owner::User),
        ("/srv/celery/tasks.py", Owner::User),
        ("/usr/lib/python3.12/queue.py", Owner::Python),
        ("/usr/local/lib/python3.13t/queue.py", Owner::Python),
        ("/usr/lib64/python3.9/queue.py", Owner::Python),
        ("<frozen importlib._bootstrap>", Owner::Python),
        ("<string>", Owner::Python),
        ("/srv/venv/bin/gunicorn", Owner::Python),
        ("/usr/lib/python3/dist-packages/flask/app.py", Owner::Package),
        ("/usr/lib/python3.12/site-packages/flask/app.py", Owner::Package),
    ] {
        assert_eq!(owner(file), whose, "{file}");
    }
    // A loop of the user's own is user's code, whatever its folder's name.
    let own = reading(&stack(&["/srv/celery/tasks.py:5 run"]), Group::Sleep, "");
    assert_eq!((own.site, own.is_idle), (Some(0), false));
}
