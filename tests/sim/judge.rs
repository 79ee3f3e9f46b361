//! The judge in simulated time: what it rolls back and how soon, and what it leaves alone.

use std::collections::BTreeMap;
use std::time::Duration;

use cutover::guard::counts::{Counts, Group, Load, Norm, Phi, Rules, Tick};
use cutover::guard::judge::State;
use cutover::guard::verdict::Verdict;
use cutover::vocab::PerSide;

const SECOND: usize = 4;
const MINUTE: usize = 60 * SECOND;
const HOUR: usize = 60 * MINUTE;
const HEALTHY: Path = Path { err: 0.001, tmo: 0.001, c4: 0.02, slow: 0.04 };
const DOWN: Path = Path { err: 1.0, tmo: 0.0, ..HEALTHY };

/// SplitMix64.
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> usize {
        let (limit, mut product) = ((-mean).exp(), self.next());
        (0..)
            .find(|_| {
                let is_over = product <= limit;
                product *= self.next();
                is_over
            })
            .unwrap()
    }
}

/// How often a path does what.
#[derive(Clone, Copy)]
struct Path {
    err: f64,
    tmo: f64,
    c4: f64,
    slow: f64,
}

#[derive(Clone)]
struct World {
    chance: Chance,
    share: f64,
    a_second: f64,
    paths: PerSide<Path>,
    legacy_safe: bool,
    at_ms: u64,
    turn: f64,
}

impl World {
    fn new(seed: u64, share: f64) -> Self {
        let paths = PerSide { legacy: HEALTHY, async_: HEALTHY };
        let chance = Chance(seed);
        Self { chance, share, a_second: 100.0, paths, legacy_safe: true, at_ms: 0, turn: 0.0 }
    }

    fn tick(&mut self) -> Tick {
        self.at_ms += 250;
        let mut paths = PerSide::<Counts>::default();
        for _ in 0..self.chance.poisson(self.a_second / SECOND as f64) {
            // The even spread of the real split.
            self.turn += self.share;
            let is_async = self.turn >= 1.0;
            self.turn -= f64::from(u8::from(is_async));
            let path = if is_async { self.paths.async_ } else { self.paths.legacy };
            let counts = if is_async { &mut paths.async_ } else { &mut paths.legacy };
            let (what, speed) = (self.chance.next(), self.chance.next());
            counts.n += 1;
            counts.err += u64::from(what < path.err);
            counts.tmo += u64::from(what >= path.err && what < path.err + path.tmo);
            counts.c4 += u64::from(1.0 - what <= path.c4);
            counts.slow95 += u64::from(speed < path.slow);
            counts.slow99 += u64::from(speed < path.slow / 5.0);
        }
        self.tick_of(paths)
    }

    fn tick_of(&self, paths: PerSide<Counts>) -> Tick {
        Tick {
            at_ms: self.at_ms,
            epoch: 1,
            step: self.share,
            groups: vec![Group { share: self.share, paths }],
            routes: BTreeMap::from([("GET /orders/{id}".to_owned(), paths)]),
            load: PerSide::default(),
            rss: PerSide::default(),
            legacy_safe: self.legacy_safe,
            pending: Vec::new(),
            mirror: None,
        }
    }

    /// Takes `ticks` through the judge; the verdicts' ticks are counted from 1.
    fn first(
        &mut self,
        judge: &mut State,
        rules: &Rules,
        ticks: usize,
        is_it: impl Fn(&Verdict) -> bool,
    ) -> Option<(usize, Verdict)> {
        (1..=ticks).find_map(|at| {
            let verdict = judge.step(&self.tick(), rules);
            is_it(&verdict).then_some((at, verdict))
        })
    }
}

fn accuses(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Rollback(_) | Verdict::NoSafePath(_))
}

fn norm(path: Path) -> Norm {
    let [err, tmo] = [path.err, path.tmo].map(|rate| (rate * 100_000.0) as u64);
    let recorded_at = "2026-11-24 01:10".to_owned();
    Norm { n: 100_000, err, tmo, mean_ms: 20.0, rss: Some(1 << 28), recorded_at, slow: true }
}

fn with_baseline() -> Rules {
    Rules { baseline: Some(norm(HEALTHY)), ..Rules::default() }
}

fn both_rules() -> [Rules; 2] {
    [Rules::default(), with_baseline()]
}

/// Seconds from the moment at which `broken` became async's lot until the rollback, over seeds.
fn detection(share: f64, rules: &Rules, broken: Path, healthy: usize) -> Vec<f64> {
    let mut times: Vec<f64> = (1..=20)
        .map(|seed| {
            let (mut world, mut judge) = (World::new(seed, share), State::new());
            let early = world.first(&mut judge, rules, healthy, accuses);
            assert!(early.is_none(), "seed {seed}: {early:?}");
            world.paths.async_ = broken;
            let found = world.first(&mut judge, rules, 5 * MINUTE, accuses);
            let (ticks, verdict) = found.unwrap_or_else(|| panic!("seed {seed}: not found"));
            assert!(matches!(verdict, Verdict::Rollback(_)), "seed {seed}: {verdict:?}");
            ticks as f64 / SECOND as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn shown(what: &str, times: &[f64]) {
    let [min, median, max] = [0, times.len() / 2, times.len() - 1].map(|at| times[at]);
    println!("{what}: {min} / {median} / {max} s (min, median, max of seeds 1 to {})", times.len());
}

#[test]
fn two_paths_alike_with_5_percent_timeouts_are_left_alone_for_30_hours() {
    let path = Path { err: 0.0, tmo: 0.05, ..HEALTHY };
    let rules = [Rules::default(), Rules { baseline: Some(norm(path)), ..Rules::default() }];
    let mut highest = BTreeMap::new();
    for hour in 0..30 {
        let (share, rules) = ([0.1, 0.5, 0.9][hour % 3], &rules[hour % 2]);
        let (mut world, mut judge) = (World::new(hour as u64, share), State::new());
        world.paths = PerSide { legacy: path, async_: path };
        for _ in 0..HOUR {
            let verdict = judge.step(&world.tick(), rules);
            assert!(!accuses(&verdict), "seed {hour}, share {share}: {verdict:?}");
            for (check, test, value) in judge.evidence() {
                let highest = highest.entry((check, test)).or_insert(value);
                *highest = value.max(*highest);
            }
        }
    }
    println!("highest evidence in 30 healthy hours, seeds 0 to 29: {highest:.1?}");
}

#[test]
fn an_outage_of_async_is_rolled_back_within_3_seconds() {
    for share in [0.1, 0.5, 0.9] {
        for (rules, name) in both_rules().iter().zip(["A", "A and B"]) {
            for (down, kind) in
                [(DOWN, "errors"), (Path { err: 0.0, tmo: 1.0, ..HEALTHY }, "timeouts")]
            {
                let times = detection(share, rules, down, MINUTE);
                shown(&format!("outage by {kind} at {share}, {name}"), &times);
                assert!(times.iter().all(|time| (1.0..=3.0).contains(time)), "{times:?}");
            }
        }
    }
}

#[test]
fn five_percent_of_errors_at_a_tenth_are_rolled_back_within_30_seconds() {
    let times = detection(0.1, &with_baseline(), Path { err: 0.05, ..HEALTHY }, 10 * MINUTE);
    shown("0.1 % to 5 % errors at 0.1, A and B", &times);
    let alone = detection(0.1, &Rules::default(), Path { err: 0.05, ..HEALTHY }, 10 * MINUTE);
    shown("0.1 % to 5 % errors at 0.1, A", &alone);
    assert!(times.iter().all(|time| *time <= 30.0), "{times:?}");
}

#[test]
fn a_late_regression_is_caught_after_five_healthy_hours() {
    for rules in both_rules() {
        let (mut world, mut judge) = (World::new(7, 0.5), State::new());
        assert!(world.first(&mut judge, &rules, 5 * HOUR, accuses).is_none(), "seed 7");
        world.paths.async_ = DOWN;
        let (ticks, verdict) = world.first(&mut judge, &rules, MINUTE, accuses).unwrap();
        assert!(
            matches!(verdict, Verdict::Rollback(_)) && ticks <= 3 * SECOND,
            "{ticks} {verdict:?}"
        );
    }
}

#[test]
fn an_outage_that_both_paths_share_rolls_nothing_back() {
    let late = Path { err: 0.0, tmo: 1.0, ..HEALTHY };
    let half = Path { err: 0.5, ..HEALTHY };
    for share in [0.1, 0.5, 0.9] {
        for rules in both_rules() {
            // In the last the paths fail in different ways.
            for (legacy, async_) in [(DOWN, DOWN), (half, half), (late, late), (DOWN, late)] {
                let (mut world, mut judge) = (World::new(11, share), State::new());
                world.first(&mut judge, &rules, MINUTE, accuses);
                world.paths = PerSide { legacy, async_ };
                let is_rollback = |verdict: &Verdict| matches!(verdict, Verdict::Rollback(_));
                let found = world.first(&mut judge, &rules, 10 * MINUTE, is_rollback);
                assert!(found.is_none(), "seed 11, share {share}: {found:?}");
                let is_advance = |verdict: &Verdict| *verdict == Verdict::Advance;
                let found = world.first(&mut judge, &rules, MINUTE, is_advance);
                assert!(found.is_none() || rules.baseline.is_none(), "advanced");
            }
        }
    }
}

#[test]
fn a_burst_of_30_resets_in_one_tick_rolls_nothing_back() {
    for share in [0.1, 0.5, 0.9] {
        for rules in both_rules() {
            let (mut world, mut judge) = (World::new(13, share), State::new());
            world.first(&mut judge, &rules, MINUTE, accuses);
            let mut burst = world.tick();
            burst.groups[0].paths.async_ += Counts { n: 30, err: 30, ..Counts::default() };
            assert!(!accuses(&judge.step(&burst, &rules)));
            let found = world.first(&mut judge, &rules, 10 * MINUTE, accuses);
            assert!(found.is_none(), "seed 13, share {share}: {found:?}");
        }
    }
}

#[test]
fn without_traffic_the_ramp_is_held_for_ever() {
    let rules = with_baseline();
    let (mut world, mut judge) = (World::new(0, 0.1), State::new());
    world.a_second = 0.0;
    for at in 0..5 * HOUR {
        let verdict = judge.step(&world.tick(), &rules);
        if at >= MINUTE {
            assert!(matches!(verdict, Verdict::Hold { .. }), "at {at}: {verdict:?}");
        } else {
            assert!(matches!(verdict, Verdict::Wait { .. }), "at {at}: {verdict:?}");
        }
    }
}

#[test]
fn whatever_ticks_without_an_attempt_say_they_neither_advance_nor_roll_back() {
    let lax = Rules {
        soak: Duration::ZERO,
        response_timeout: Duration::ZERO,
        min_requests: 0,
        ..with_baseline()
    };
    let lax = Rules {
        memory_max: Some(1 << 20),
        memory_for: Duration::ZERO,
        data_gap: Duration::MAX,
        ..lax
    };
    for seed in 0..300 {
        let (mut world, mut judge) = (World::new(seed, 0.5), State::new());
        let mut chance = Chance(seed ^ 0xabcd);
        for _ in 0..300 {
            world.at_ms += (chance.next() * 100_000.0) as u64;
            let share = [0.0, 0.1, 0.5, 1.0][(chance.next() * 4.0) as usize];
            let group = Group { share, paths: PerSide::default() };
            let busy = Load { in_flight: (chance.next() * 500.0) as u64, arrivals: 0 };
            let tick = Tick {
                epoch: (chance.next() * 1.02) as u64,
                step: share,
                groups: vec![group; (chance.next() * 3.0) as usize],
                load: PerSide { legacy: Load::default(), async_: busy },
                rss: PerSide { legacy: None, async_: Some((chance.next() * 1e9) as u64) },
                legacy_safe: chance.next() < 0.9,
                ..world.tick_of(PerSide::default())
            };
            let verdict = judge.step(&tick, &lax);
            assert!(!accuses(&verdict) && verdict != Verdict::Advance, "seed {seed}: {verdict:?}");
        }
    }
}

/// Clients whose ten requests of one moment fail together, one visit in fifty.
fn visits(chance: &mut Chance, share: f64) -> PerSide<Counts> {
    let mut paths = PerSide::<Counts>::default();
    for _ in 0..chance.poisson(2.5) {
        let counts = if chance.next() < share { &mut paths.async_ } else { &mut paths.legacy };
        let err = if chance.next() < 0.02 { 10 } else { 0 };
        *counts += Counts { n: 10, err, ..Counts::default() };
    }
    paths
}

#[test]
fn errors_of_sticky_clients_that_come_together_are_quiet_with_phi_measured() {
    // As the baseline's recording measures it: legacy's traffic in two halves that are alike.
    let (mut chance, mut sum, mut ticks) = (Chance(17), 0.0, 0.0);
    for _ in 0..HOUR / 6 {
        let halves = visits(&mut chance, 0.5);
        let (one, all) = (halves.async_.err as f64, (halves.async_.err + halves.legacy.err) as f64);
        if all > 0.0 {
            sum += (one - all / 2.0).powi(2) / (all / 4.0);
            ticks += 1.0;
        }
    }
    let phi = sum / ticks;
    let mut alarms = [0, 0];
    for (alarms, fail) in alarms.iter_mut().zip([phi, 1.0]) {
        let rules = Rules { phi: Phi { fail, c4: 1.0 }, ..Rules::default() };
        for seed in 0..6 {
            let (mut world, mut judge, mut chance) =
                (World::new(seed, 0.5), State::new(), Chance(seed));
            *alarms += usize::from((0..HOUR).any(|_| {
                world.at_ms += 250;
                let tick = world.tick_of(visits(&mut chance, 0.5));
                accuses(&judge.step(&tick, &rules))
            }));
        }
    }
    println!(
        "phi {phi:.1}: {} of 6 healthy hours alarmed with it, {} without",
        alarms[0], alarms[1]
    );
    assert_eq!(alarms[0], 0);
    assert!(alarms[1] > 0, "the test shows nothing");
}

#[test]
fn at_100_percent_an_outage_is_rolled_back_only_onto_a_legacy_path_that_is_safe() {
    for is_safe in [true, false] {
        let (mut world, mut judge) = (World::new(19, 1.0), State::new());
        world.legacy_safe = is_safe;
        let rules = with_baseline();
        assert!(world.first(&mut judge, &rules, 10 * MINUTE, accuses).is_none());
        world.paths.async_ = DOWN;
        let (ticks, verdict) = world.first(&mut judge, &rules, MINUTE, accuses).unwrap();
        assert!(ticks <= 3 * SECOND, "{ticks}");
        assert_eq!(matches!(verdict, Verdict::Rollback(_)), is_safe, "{verdict:?}");
        assert_eq!(matches!(verdict, Verdict::NoSafePath(_)), !is_safe, "{verdict:?}");
    }
    let (mut world, mut judge) = (World::new(19, 1.0), State::new());
    world.paths.async_ = DOWN;
    assert!(world.first(&mut judge, &Rules::default(), HOUR, accuses).is_none(), "no control");
}

#[test]
fn a_recorded_file_of_ticks_gives_the_same_verdicts_again() {
    for (seed, rules) in (0..2).zip(both_rules()) {
        let (mut world, mut live, mut again) = (World::new(seed, 0.3), State::new(), State::new());
        for at in 0..2 * MINUTE {
            // Shares as they are measured, with all their digits.
            world.share = 0.3 + world.chance.next() / 10.0;
            world.paths.async_.err = if at > MINUTE { 0.2 } else { 0.01 };
            let tick = world.tick();
            let line = serde_json::to_string(&tick).unwrap();
            let verdict = live.step(&tick, &rules);
            let replayed = again.step(&serde_json::from_str(&line).unwrap(), &rules);
            assert_eq!(replayed, verdict, "seed {seed}, tick {at}: {line}");
            let value: serde_json::Value = serde_json::to_value(&verdict).unwrap();
            assert_eq!(value["verdict"], verdict.name());
            assert_eq!(serde_json::from_value::<Verdict>(value).unwrap(), verdict);
        }
        assert!(live.evidence().any(|(_, _, value)| value > 0.0));
        assert!(live.evidence().eq(again.evidence()));
    }
}
