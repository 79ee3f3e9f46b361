//! A paced return: a share goes back to the legacy path in a straight line, not at once.
//!
//! Pure: time is an argument, as the span since an origin. A legacy backend that was scaled down while
//! the async path served would meet all of the traffic in one instant; so it gets some seconds.

use std::time::Duration;

use crate::vocab::Weight;

/// One way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The weight at its beginning, above the one at its end.
    pub from: Weight,
    /// The weight at its end.
    pub to: Weight,
    /// When it began.
    pub began: Duration,
    /// How long it takes.
    pub span: Duration,
}

impl Pace {
    /// The weight at `now`; `None` once it has ended.
    #[must_use]
    pub fn at(&self, now: Duration) -> Option<Weight> {
        let passed = now.saturating_sub(self.began);
        if passed >= self.span {
            return None;
        }
        let left = 1.0 - passed.as_secs_f64() / self.span.as_secs_f64();
        let (from, to) = (self.from.share(), self.to.share());
        Weight::from_share(to + (from - to) * left)
    }

    /// The way to `desired` of a target that is at `present`, on the way `old` if any, at `now`:
    /// `None` if it goes there at once.
    #[must_use]
    pub fn plan(
        old: Option<Self>,
        present: Weight,
        desired: Weight,
        now: Duration,
        span: Duration,
    ) -> Option<Self> {
        match old {
            // Whatever else changed in the config, this goes on.
            Some(old) if old.to == desired && old.span == span => Some(old),
            _ if desired < present && !span.is_zero() => {
                Some(Self { from: present, to: desired, began: now, span })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(10);

    fn weight(share: f64) -> Weight {
        Weight::from_share(share).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_weight_falls_in_a_straight_line() {
        let pace = Pace { from: weight(0.8), to: weight(0.2), began: seconds(100), span: SPAN };
        for (now, expected) in
            [(99, Some(0.8)), (100, Some(0.8)), (105, Some(0.5)), (109, Some(0.26)), (110, None)]
        {
            let shown = pace.at(seconds(now)).map(|weight| weight.to_string());
            assert_eq!(shown, expected.map(|share| share.to_string()), "at {now}");
        }
    }

    #[test]
    fn only_the_way_back_is_paced() {
        let now = seconds(50);
        let begun = Pace { from: weight(1.0), to: weight(0.0), began: seconds(45), span: SPAN };
        let from =
            |from, to| Some(Pace { from: weight(from), to: weight(to), began: now, span: SPAN });
        for (old, present, desired, span, expected) in [
            (None, 0.1, 0.5, SPAN, None),
            (None, 0.5, 0.5, SPAN, None),
            (None, 1.0, 0.0, SPAN, from(1.0, 0.0)),
            (None, 1.0, 0.0, seconds(0), None),
            // Another reload on the way: goes on if it wants the same, turns if not.
            (Some(begun), 0.5, 0.0, SPAN, Some(begun)),
            (Some(begun), 0.5, 0.3, SPAN, from(0.5, 0.3)),
            (Some(begun), 0.5, 0.6, SPAN, None),
            (Some(begun), 0.5, 0.0, seconds(0), None),
        ] {
            let plan = Pace::plan(old, weight(present), weight(desired), now, span);
            assert_eq!(plan, expected, "{old:?} {present} {desired} {span:?}");
        }
    }
}
