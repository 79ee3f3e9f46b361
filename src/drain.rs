//! The phases of the process and the signal that announces them.
//!
//! One watch channel: the control plane sets the phase, workers follow. A phase never goes back.

use tokio::sync::watch;

/// Where the process stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not yet listening.
    #[default]
    Starting,
    /// Serving.
    Serving,
    /// Not ready any more, but still accepting: load balancers get time to look elsewhere, and
    /// each reply asks its client to close.
    Leaving,
    /// Accepting no more; what is in flight finishes.
    Draining,
    /// The deadline has passed; what is left is cut off.
    Cut,
    /// Nothing is left.
    Closed,
}

impl Phase {
    /// All names, for the gauge that shows the phase.
    pub const NAMES: [&'static str; 6] =
        ["starting", "serving", "leaving", "draining", "cut", "closed"];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Whether `/readyz` says that requests may come.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self == Self::Serving
    }

    /// Whether replies ask their clients to close.
    #[must_use]
    pub fn is_ending(self) -> bool {
        self >= Self::Leaving
    }
}

/// Sets the phase.
#[derive(Debug)]
pub struct Signal(watch::Sender<Phase>);

/// Follows the phase.
pub type Follower = watch::Receiver<Phase>;

impl Default for Signal {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Signal {
    /// Goes on to `phase`; going back is ignored.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let goes_on = phase > *current;
            if goes_on {
                *current = phase;
            }
            goes_on
        });
    }

    /// A new follower.
    #[must_use]
    pub fn follow(&self) -> Follower {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_never_goes_back() {
        let signal = Signal::default();
        let follower = signal.follow();
        signal.advance(Phase::Draining);
        signal.advance(Phase::Serving);
        assert_eq!(*follower.borrow(), Phase::Draining);
    }
}
