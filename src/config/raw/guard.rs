//! The keys of the guard and the ramp as they are typed: `[guard]` and `[ramp]`.
//!
//! Ranges are wide: they refuse what can only be a mistake. Of the levels of evidence each must also
//! leave room for the next.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;

use crate::config::guard::{GuardConfig, GuardMode, RampConfig, Webhook};
use crate::config::limits::{at_least_one, number, positive, time, time_within};
use crate::config::section::Section;
use crate::config::values::Size;
use crate::guard::counts::Rules;
use crate::vocab::Weight;

/// `[ramp]`, and where it begins.
#[derive(Debug)]
pub(crate) struct Ramp {
    pub(crate) config: RampConfig,
    pub(crate) span: Range<usize>,
}

/// A level of evidence, with its place in the file if it is there.
struct Level {
    key: &'static str,
    nats: f64,
    place: Option<Range<usize>>,
}

/// Most steps of a ramp: more would be a slope.
const STEPS_MAX: usize = 32;
/// Below it chance alone would roll back, beyond it no regression of any use would be found.
const FAIL_AT_RANGE: RangeInclusive<f64> = 8.0..=100.0;
/// Other levels of evidence; each must be over zero as well.
const NATS: RangeInclusive<f64> = 0.0..=100.0;
/// From when on asyncio itself calls a callback slow.
const STALL_AFTER: Duration = Duration::from_millis(100);
/// Shorter gaps are a busy loop's everyday life, longer ones are timeouts.
const STALL_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);
/// Values of `phi` other than 0, which stands for what the baseline measured.
const PHI_RANGE: RangeInclusive<f64> = 1.0..=20.0;
/// The largest multiple that a ratio may ask for.
const RATIO_MAX: f64 = 100.0;
/// How the id of each rollback begins.
const ROLLBACK_ID: &str = "rb-";

/// The keys of `[guard]`.
pub(crate) fn guard(mut table: Section<'_>) -> GuardConfig {
    let guard = GuardConfig {
        mode: table.or("mode", GuardMode::default()),
        rules: rules(&mut table),
        stall_after: time_within(&mut table, "stall_after", STALL_AFTER, STALL_RANGE),
        phi: phi(&mut table),
        acknowledge_rollback: acknowledge_rollback(&mut table),
    };
    table.finish();
    guard
}

/// The thresholds; the defaults are the judge's own.
fn rules(table: &mut Section<'_>) -> Rules {
    let own = Rules::default();
    let levels = levels(table, &own);
    let mut share = |key: &str, own: f64| number(table, key, own, 0.0..=1.0);
    let [tolerance, rate_min, gain_min, client_error_gain_min, memory_step_min] = [
        share("tolerance", own.tolerance),
        share("rate_min", own.rate_min),
        share("gain_min", own.gain_min),
        share("client_error_gain_min", own.client_error_gain_min),
        share("memory_step_min", own.memory_step_min),
    ];
    let mut ratio = |key: &str, own: f64| number(table, key, own, 1.0..=RATIO_MAX);
    let [goodput_factor, memory_ratio, advance_ratio] = [
        ratio("goodput_factor", own.goodput_factor),
        ratio("memory_ratio", own.memory_ratio),
        ratio("advance_ratio", own.advance_ratio),
    ];
    Rules {
        tolerance,
        client_error_tolerance: number(
            table,
            "client_error_tolerance",
            own.client_error_tolerance,
            0.0..=10.0,
        ),
        divergence_mode: table.or("divergence_mode", own.divergence_mode),
        rate_min,
        gain_min,
        client_error_gain_min,
        goodput_factor,
        goodput_for: positive(table, "goodput_for", own.goodput_for.as_secs()),
        goodput_min: goodput_min(table, own.goodput_min),
        memory_max: memory_max(table),
        memory_ratio,
        memory_for: positive(table, "memory_for", own.memory_for.as_secs()),
        memory_step_min,
        latency_settle: time(table, "latency_settle", own.latency_settle.as_secs()),
        advance_ratio,
        data_gap: positive(table, "data_gap", own.data_gap.as_secs()),
        ..levels
    }
}

/// The keys of `[ramp]`.
pub(crate) fn ramp(mut table: Section<'_>) -> Ramp {
    let span = table.span();
    let steps = steps(&mut table);
    let config = RampConfig {
        approve: approve(&mut table, &steps),
        steps,
        soak: positive(&mut table, "soak", 300),
        min_requests: at_least_one(&mut table, "min_requests", 500) as u64,
        p99_min_requests: at_least_one(&mut table, "p99_min_requests", 2_000) as u64,
        max_hold: positive(&mut table, "max_hold", 30 * 60),
        webhook: webhook(&mut table),
    };
    table.finish();
    Ramp { config, span }
}

/// The judge's own rules with the file's levels of evidence.
fn levels(table: &mut Section<'_>, own: &Rules) -> Rules {
    let fail = level(table, "fail_at", own.fail_at, FAIL_AT_RANGE);
    let hold = level(table, "hold_at", own.hold_at, NATS);
    let release = level(table, "release_at", own.release_at, NATS);
    let shared = level(table, "shared_at", own.shared_at, NATS);
    let cap = level(table, "cap", own.cap, NATS);
    for (is_wrong, low, rule, high) in [
        (hold.nats >= fail.nats, &hold, "must be below", &fail),
        (release.nats >= hold.nats, &release, "must be below", &hold),
        (shared.nats > fail.nats, &shared, "must be at most", &fail),
        // Or a single tick could roll back.
        (cap.nats >= fail.nats, &cap, "must be below", &fail),
    ] {
        if is_wrong {
            let place = low.place.clone().or_else(|| high.place.clone());
            let message = format!("is {} and {rule} `{}`, {}", low.nats, high.key, high.nats);
            table.fault(place.unwrap_or_else(|| table.span()), low.key, message);
        }
    }
    Rules {
        fail_at: fail.nats,
        hold_at: hold.nats,
        release_at: release.nats,
        shared_at: shared.nats,
        cap: cap.nats,
        ..own.clone()
    }
}

fn level(
    table: &mut Section<'_>,
    key: &'static str,
    default: f64,
    range: RangeInclusive<f64>,
) -> Level {
    let place = table.place(key);
    let nats = number(table, key, default, range);
    if nats <= 0.0 {
        table.fault(place.clone().unwrap_or_else(|| table.span()), key, "must be over 0");
    }
    Level { key, nats, place }
}

fn goodput_min(table: &mut Section<'_>, own: u64) -> u64 {
    at_least_one(table, "goodput_min", usize::try_from(own).unwrap_or(1)) as u64
}

/// A hard limit; without one only growth over the baseline is judged.
fn memory_max(table: &mut Section<'_>) -> Option<u64> {
    let size = table.optional::<Size>("memory_max")?;
    if size.get_ref().0 == 0 {
        table.fault(size.span(), "memory_max", "must be over zero");
    }
    Some(size.into_inner().0).filter(|bytes| *bytes != u64::MAX)
}

fn phi(table: &mut Section<'_>) -> f64 {
    let Some(phi) = table.optional::<f64>("phi") else {
        return 0.0;
    };
    if *phi.get_ref() != 0.0 && !PHI_RANGE.contains(phi.get_ref()) {
        let (low, high) = (PHI_RANGE.start(), PHI_RANGE.end());
        table.fault(phi.span(), "phi", format!("must be 0, or from {low} to {high}"));
    }
    phi.into_inner()
}

fn acknowledge_rollback(table: &mut Section<'_>) -> String {
    let Some(id) = table.optional::<String>("acknowledge_rollback") else {
        return String::new();
    };
    if !id.get_ref().is_empty() && !id.get_ref().starts_with(ROLLBACK_ID) {
        let message = "must be a rollback's id, such as \"rb-20261124-021733\"";
        table.fault(id.span(), "acknowledge_rollback", message);
    }
    id.into_inner()
}

fn steps(table: &mut Section<'_>) -> Vec<Weight> {
    let place = table.place("steps");
    let Some(steps) = table.optional::<Vec<Spanned<f64>>>("steps") else {
        return [0.10, 0.50, 1.0].into_iter().filter_map(Weight::from_share).collect();
    };
    let steps = steps.into_inner();
    if steps.is_empty() || steps.len() > STEPS_MAX {
        let message = format!("must be 1 to {STEPS_MAX} shares");
        table.fault(place.unwrap_or_else(|| table.span()), "steps", message);
    }
    let mut taken: Vec<Weight> = Vec::new();
    for step in steps {
        let share = step.get_ref();
        match Weight::from_share(*share).filter(|weight| *weight > Weight::ZERO) {
            None => {
                let message = format!("{share} is not a share over 0.0, up to 1.0");
                table.fault(step.span(), "steps", message);
            }
            Some(weight) if taken.last().is_some_and(|last| *last >= weight) => {
                let message = format!("{share} is not over the step before it");
                table.fault(step.span(), "steps", message);
            }
            Some(weight) => taken.push(weight),
        }
    }
    taken
}

fn approve(table: &mut Section<'_>, steps: &[Weight]) -> Vec<Weight> {
    let approve = table.optional::<Vec<Spanned<f64>>>("approve").map(Spanned::into_inner);
    let mut weights = Vec::new();
    for step in approve.unwrap_or_default() {
        let share = step.get_ref();
        match Weight::from_share(*share).filter(|weight| steps.contains(weight)) {
            Some(weight) => weights.push(weight),
            None => table.fault(step.span(), "approve", format!("{share} is none of the steps")),
        }
    }
    weights
}

fn webhook(table: &mut Section<'_>) -> Option<Webhook> {
    let url = table.optional::<String>("webhook").filter(|url| !url.get_ref().is_empty())?;
    let parsed = url.get_ref().parse();
    parsed.map_err(|message: String| table.fault(url.span(), "webhook", message)).ok()
}
