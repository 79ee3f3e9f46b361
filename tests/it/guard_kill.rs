//! Killed at any moment: what was answered holds after the restart, and the change log explains
//! where the ramp stands and whether a rollback is in force.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::guard::{Home, guard, is_share, traffic, try_order};
use crate::harness::{Backend, Setup, heavy};

const KILLS: usize = 20;
const STEPS: [f64; 5] = [0.1, 0.2, 0.3, 0.6, 1.0];
const GOALS: [f64; 4] = [1.0, 0.05, 0.25, 0.8];
/// The ramp goes on at each look, but waits for an approval in its middle.
const EAGER: &str = "[guard]\nmode = \"enforce\"\nrate_min = 1.0\nadvance_ratio = 100.0\n\
                     [ramp]\nsteps = [0.1, 0.2, 0.3, 0.6, 1.0]\napprove = [0.6]\nsoak = \"1ms\"\n\
                     min_requests = 1\n";

/// Xorshift.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What an operator was told about rollbacks, as far as it goes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    /// The rollback that must be in force; `None`: none may be.
    latch: Option<String>,
    /// An order that would change that got no answer: it may have been carried out or not.
    is_open: bool,
}

impl Told {
    fn order(&mut self, admin: SocketAddr, path: &str) -> std::io::Result<Value> {
        let is_latch = path.contains("rollback") || path.contains("resume");
        self.is_open |= is_latch;
        let (status, answer) = try_order(admin, path, "{}")?;
        self.is_open &= !is_latch;
        match (status, path) {
            (200, "/api/v1/rollback") => self.latch = answer["id"].as_str().map(str::to_owned),
            (200, path) if path.starts_with("/api/v1/resume/") => self.latch = None,
            (200 | 409, _) => {}
            (_, _) => panic!("{path}: {status} {answer}"),
        }
        Ok(answer)
    }
}

/// Gives orders until one gets no answer.
fn operate(told: &mut Told, admin: SocketAddr, mut next: impl FnMut(&Told, usize) -> String) {
    for turn in 0.. {
        let order = next(told, turn);
        if told.order(admin, &order).is_err() {
            return;
        }
    }
}

/// One order after another.
fn crowded(home: &Home, setup: &Setup, chance: &mut Chance, told: &Told) -> String {
    thread::sleep(Duration::from_millis(chance.below(20)));
    match (&told.latch, chance.below(8)) {
        (_, 0) => "/api/v1/rollback".to_owned(),
        (_, 1) => "/api/v1/ramp/pause".to_owned(),
        (_, 2) => "/api/v1/ramp/continue".to_owned(),
        (_, 3 | 4) => {
            home.write(&setup.clone().weight(GOALS[chance.below(4) as usize]));
            "/api/v1/reload".to_owned()
        }
        (Some(id), _) => format!("/api/v1/resume/{id}"),
        (None, _) => "/api/v1/ramp/approve".to_owned(),
    }
}

/// Few of them, so that the ramp goes on by itself.
fn calm(home: &Home, setup: &Setup, told: &Told, turn: usize) -> String {
    if turn > 2 {
        thread::sleep(Duration::from_millis(300));
    }
    match (&told.latch, turn) {
        (_, 0) => "/api/v1/ramp/continue".to_owned(),
        (_, 1) => {
            home.write(&setup.clone().weight(1.0));
            "/api/v1/reload".to_owned()
        }
        (Some(id), _) => format!("/api/v1/resume/{id}"),
        (None, _) => "/api/v1/ramp/approve".to_owned(),
    }
}

/// What the change log says: how far the ramp is, which rollback is in force, and how many orders it
/// has.
#[derive(Debug, Default)]
struct Replay {
    position: Option<f64>,
    latch: Option<String>,
    seq: u64,
}

impl Replay {
    fn of(changes: &[Value], goals: &HashMap<String, f64>) -> Self {
        let mut replay = Self::default();
        for change in changes {
            let goal = goals[change["config"].as_str().unwrap()];
            let first = STEPS[0].min(goal);
            replay.position = Some(replay.position.unwrap_or(0.0).min(goal).max(first));
            let Some(seq) = change["seq"].as_u64() else {
                continue;
            };
            assert_eq!(seq, replay.seq + 1, "after {replay:?}: {change}");
            replay.seq = seq;
            match change["what"].as_str().unwrap() {
                "rollback" => {
                    assert_eq!(replay.latch, None, "{change}");
                    replay.latch = change["numbers"]["id"].as_str().map(str::to_owned);
                    replay.position = Some(first);
                }
                "resume" => {
                    let id = replay.latch.take().unwrap_or_default();
                    let text = change["numbers"]["text"].as_str().unwrap();
                    assert!(text.contains(&format!("released: {id}")), "{id}: {change}");
                    replay.position = Some(first);
                }
                "ramp" => replay.position = change["numbers"]["to"].as_f64(),
                "pause" | "continue" | "approve" => {}
                other => panic!("{other} has a number: {change}"),
            }
            let reach = if replay.latch.is_some() { 0.0 } else { replay.position.unwrap() };
            let to = change["to"].as_str().unwrap().parse::<f64>().unwrap();
            assert!((to - reach).abs() < 1e-5, "{to} is not {reach}: {change}");
        }
        replay
    }
}

#[test]
fn killed_at_any_moment_it_goes_on_from_what_was_answered_and_logged() {
    let _alone = heavy();
    let seed = u64::from(std::process::id()) << 20 | 1;
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let (legacy, async_) = (Backend::counting("legacy"), Backend::counting("async"));
    let setup = Setup::new(legacy.address, async_.address)
        .workers(1)
        .legacy("response_timeout = \"50ms\"")
        .async_("response_timeout = \"50ms\"")
        .tail(EAGER);
    let goals = GOALS.map(|goal| {
        let text = setup.clone().weight(goal).text();
        (cutover::config::hash(text.as_bytes()), goal)
    });
    let goals = HashMap::from(goals);
    let home = Home::new(&setup.clone().weight(1.0));
    let mut told = Told::default();
    for kill in 0..=KILLS {
        let mut process = home.spawn();
        let (admin, changes) = (process.admin, home.changes());
        let replay = Replay::of(&changes, &goals);
        let status = guard(admin);
        let what = format!("kill {kill}, seed {seed}: {replay:?}, {told:?}, {status:#}");
        let latch = status["rollback"]["id"].as_str().map(str::to_owned);
        assert_eq!(latch, replay.latch, "{what}");
        if !told.is_open {
            assert_eq!(latch, told.latch, "{what}");
        }
        // The ramp may have gone on since.
        let position = &status["ramp"]["position"];
        let is_there = is_share(position, replay.position.unwrap());
        assert!(is_there || home.changes().len() > changes.len(), "{what}");
        if latch.is_some() {
            assert_eq!(process.client().get("/").text(), "legacy", "{what}");
        }
        told = Told { latch, is_open: false };
        let is_calm = kill % 2 == 0;
        let moment = chance.below(if is_calm { 1_500 } else { 500 });
        let (ended, logged) = (AtomicBool::new(false), told.clone());
        traffic(process.address, (2, &["/"]), || {
            thread::scope(|scope| {
                scope.spawn(|| {
                    operate(&mut told, admin, |told, turn| match is_calm {
                        true => calm(&home, &setup, told, turn),
                        false => crowded(&home, &setup, &mut chance, told),
                    });
                    assert!(ended.load(Ordering::SeqCst), "an order got no answer");
                });
                // The moment is what is tested.
                thread::sleep(Duration::from_millis(moment));
                ended.store(true, Ordering::SeqCst);
                process.signal("KILL");
                process.wait();
            });
        });
        let in_log = process.logged("decision");
        let text = |line: &Value| line["fields"]["text"].as_str().unwrap_or_default().to_owned();
        let mut turns = in_log.iter().filter(|line| text(line).starts_with("R"));
        if let Some(last) = turns.next_back().filter(|line| text(line).starts_with("ROLLBACK")) {
            let id = last["fields"]["id"].as_str().map(str::to_owned);
            assert!(told.is_open || told.latch == id, "{id:?} was logged: {told:?} {logged:?}");
        }
    }
    let changes = home.changes();
    let number = |what| changes.iter().filter(|change| change["what"] == what).count();
    let numbers = ["start", "config", "ramp", "rollback", "resume", "approve"].map(number);
    println!("starts, configs, steps, rollbacks, releases, approvals: {numbers:?}");
    assert_eq!(numbers[0], KILLS + 1);
    assert!(numbers[1..5].iter().all(|number| *number > 0), "{numbers:?}");
}
