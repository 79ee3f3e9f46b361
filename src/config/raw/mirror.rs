//! The keys of the mirror as they are typed: `[mirror]`, and what of a `[[route]]` concerns it.

use std::time::Duration;

use toml::Spanned;

use crate::compare::rules::Pointer;
use crate::config::limits::{at_least_one, number, share, size, time_within};
use crate::config::mirror::{MirrorConfig, OnMismatch, RouteMirror};
use crate::config::section::Section;

/// Most requests that may be mirrored at once: each is a task, and may have a connection.
const IN_FLIGHT_MAX: usize = 1_024;
/// Most of them in one second: one thread makes and compares them all.
const RPS_MAX: usize = 10_000;
/// The largest part of a body that is copied.
const BODY_MAX: u64 = 16 << 20;
/// The most memory for copies and answers.
const MEMORY_MAX: u64 = 4 << 30;
/// The longest that a path is waited for: until then a place and memory are taken.
const DEADLINE_MAX: Duration = Duration::from_secs(300);
/// Most pointers in one list of a route: each answer's members are looked up in it one by one.
const POINTERS_MAX: usize = 64;

pub(super) fn mirror(mut table: Section<'_>) -> MirrorConfig {
    let mirror = MirrorConfig {
        share: table.or("share", share(0.0)).0.share(),
        rps_max: u32::try_from(within(&mut table, "max_rps", 100, RPS_MAX)).unwrap_or(u32::MAX),
        request_bytes: bytes(&mut table, "request_bytes", 64 << 10, 0..=BODY_MAX),
        response_bytes: bytes(&mut table, "response_bytes", 256 << 10, 0..=BODY_MAX),
        in_flight: within(&mut table, "in_flight", 64, IN_FLIGHT_MAX),
        memory: bytes(&mut table, "memory", 32 << 20, 1 << 20..=MEMORY_MAX),
        connections: within(&mut table, "connections", 32, IN_FLIGHT_MAX),
        deadline: time_within(
            &mut table,
            "deadline",
            Duration::from_secs(30),
            Duration::from_millis(1)..=DEADLINE_MAX,
        ),
        noise_share: table.or("noise_share", share(0.1)).0.share(),
        on_mismatch: table.or("on_mismatch", OnMismatch::default()),
    };
    if (mirror.request_bytes + mirror.response_bytes) > mirror.memory {
        let message = "must hold a copy and an answer: `request_bytes` and `response_bytes`";
        table.fault(table.span(), "memory", message);
    }
    table.finish();
    mirror
}

/// A count from 1 to `max`.
fn within(table: &mut Section<'_>, key: &str, default: usize, max: usize) -> usize {
    let span = table.place(key).unwrap_or_else(|| table.span());
    let value = at_least_one(table, key, default);
    if value > max {
        table.fault(span, key, format!("is over the limit of {max}"));
    }
    value
}

fn bytes(
    table: &mut Section<'_>,
    key: &str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> usize {
    usize::try_from(size(table, key, default, range)).unwrap_or(usize::MAX)
}

/// What of a route concerns the mirror.
pub(super) fn of_route(table: &mut Section<'_>) -> RouteMirror {
    RouteMirror {
        mirror: table.optional("mirror").map(Spanned::into_inner),
        unsafe_methods_ok: table.or("unsafe_methods_ok", false),
        critical: table.or("critical", false),
        ignore: pointers(table, "ignore"),
        shape_only: pointers(table, "shape_only"),
        unordered: pointers(table, "unordered"),
        reveal: pointers(table, "reveal"),
        tolerance: number(table, "tolerance", 0.0, 0.0..=1.0),
    }
}

fn pointers(table: &mut Section<'_>, key: &str) -> Vec<Pointer> {
    let Some(list) = table.optional::<Vec<Spanned<String>>>(key) else {
        return Vec::new();
    };
    if list.get_ref().len() > POINTERS_MAX {
        table.fault(list.span(), key, format!("is over the limit of {POINTERS_MAX} pointers"));
    }
    let mut pointers = Vec::new();
    for text in list.into_inner().into_iter().take(POINTERS_MAX) {
        match Pointer::parse(text.get_ref()) {
            Ok(pointer) => pointers.push(pointer),
            Err(message) => table.fault(text.span(), key, message),
        }
    }
    pointers
}
