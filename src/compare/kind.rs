//! The words of a comparison: what differs between two answers, and what became of a mirrored request.
//!
//! Owns names and nothing else. They are labels of metrics and fields of JSON, so they are stable.

use serde::{Deserialize, Serialize};

/// In what two answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One path answered, the other did not.
    Outcome,
    /// The status.
    Status,
    /// A header that belongs to the contract.
    Header,
    /// Async lacks a member or an element that legacy has.
    Missing,
    /// Async has a member or an element that legacy lacks.
    Extra,
    /// A value is of another JSON type.
    Type,
    /// A value is another one of the same type.
    Value,
    /// An array has the same elements in another order.
    Order,
    /// A body that is not read has another length.
    Length,
    /// A body that is not read has the same length and other bytes.
    Bytes,
}

/// What became of a mirrored request whose copy was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorResult {
    /// Both paths said the same.
    Match,
    /// They did not.
    Mismatch,
    /// They did not at first, and did when they were asked again.
    Transient,
    /// They differed only where the primary path differs from itself.
    Noise,
    /// The shadow failed where the primary answered.
    ShadowError,
    /// The shadow timed out where the primary answered.
    ShadowTimeout,
    /// There was nothing to compare with: the primary path did not answer.
    Uncompared,
}

/// What the gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// Enough answers were compared, and hardly any differs.
    Open,
    /// Too few were compared to say so.
    TooFew,
    /// More may differ than should.
    Against,
    /// More do for certain, or a critical route has a regression.
    Failed,
}

/// What the comparison says of the async path, as the judge is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What the gate is.
    pub state: GateState,
    /// Answers that differ.
    pub differing: u64,
    /// Of how many.
    pub compared: u64,
    /// Regressions on critical routes.
    pub regressions: u64,
}

// === impl Kind ===

impl Kind {
    /// All of them, in the order in which answers are compared.
    pub const ALL: [Self; 10] = [
        Self::Outcome,
        Self::Status,
        Self::Header,
        Self::Missing,
        Self::Extra,
        Self::Type,
        Self::Value,
        Self::Order,
        Self::Length,
        Self::Bytes,
    ];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::Status => "status",
            Self::Header => "header",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Value => "value",
            Self::Order => "order",
            Self::Length => "length",
            Self::Bytes => "bytes",
        }
    }

    /// Whether this is a difference of values only, which noise explains. What is missing or of another
    /// type breaks a client, however often it happens.
    #[must_use]
    pub const fn is_of_values(self) -> bool {
        match self {
            Self::Header | Self::Value | Self::Order | Self::Length | Self::Bytes => true,
            Self::Outcome | Self::Status | Self::Missing | Self::Extra | Self::Type => false,
        }
    }
}

// === impl MirrorResult ===

impl MirrorResult {
    /// All of them, for tables of metrics.
    pub const ALL: [Self; 7] = [
        Self::Match,
        Self::Mismatch,
        Self::Transient,
        Self::Noise,
        Self::ShadowError,
        Self::ShadowTimeout,
        Self::Uncompared,
    ];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Mismatch => "mismatch",
            Self::Transient => "transient",
            Self::Noise => "noise",
            Self::ShadowError => "shadow_error",
            Self::ShadowTimeout => "shadow_timeout",
            Self::Uncompared => "uncompared",
        }
    }
}
