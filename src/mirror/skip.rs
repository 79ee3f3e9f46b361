//! Why a request is not mirrored: each reason is counted, so that what was compared is known to be
//! what it seems.

/// Why a request is not mirrored, in the order in which it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Its route is not.
    Route,
    /// Its method may change something.
    Method,
    /// Mirroring made clients wait, and is switched off.
    Harm,
    /// The draw left it out.
    NotSampled,
    /// It is a shadow itself, of a proxy before this one.
    Shadow,
    /// It asks for a tunnel.
    Upgrade,
    /// It is a CONNECT.
    Connect,
    /// It asks for events without an end.
    Events,
    /// Its client waits to be told to go on.
    Expect,
    /// It asks for a part.
    Range,
    /// It goes by what its client has already.
    Conditional,
    /// Its body is longer than what is copied, or it has trailers.
    Body,
    /// The other path is drained.
    Drained,
    /// The other path was too slow or failed too often.
    Breaker,
    /// There were as many in this second as there may be.
    Rate,
    /// As many as there may be are in flight.
    InFlight,
    /// The memory for copies is used up.
    Memory,
}

impl Skip {
    /// All of them, for tables of metrics.
    pub const ALL: [Self; 17] = [
        Self::Route,
        Self::Method,
        Self::Harm,
        Self::NotSampled,
        Self::Shadow,
        Self::Upgrade,
        Self::Connect,
        Self::Events,
        Self::Expect,
        Self::Range,
        Self::Conditional,
        Self::Body,
        Self::Drained,
        Self::Breaker,
        Self::Rate,
        Self::InFlight,
        Self::Memory,
    ];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Method => "method",
            Self::Harm => "harm",
            Self::NotSampled => "not_sampled",
            Self::Shadow => "shadow",
            Self::Upgrade => "upgrade",
            Self::Connect => "connect",
            Self::Events => "events",
            Self::Expect => "expect",
            Self::Range => "range",
            Self::Conditional => "conditional",
            Self::Body => "body",
            Self::Drained => "drained",
            Self::Breaker => "breaker",
            Self::Rate => "rate",
            Self::InFlight => "in_flight",
            Self::Memory => "memory",
        }
    }
}
