//! What is known of an endpoint when one is chosen for a request.

/// What the probes say of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet, or nobody asks.
    #[default]
    Unchecked,
    /// It answers as it should.
    Up,
    /// It does not.
    Down,
}

impl Health {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// An endpoint, as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// What the probes say.
    pub health: Health,
    /// Whether it is out because requests to it failed.
    pub is_ejected: bool,
    /// Its share of requests relative to the others', over zero.
    pub weight: f64,
    /// Lower ones go first (RFC 2782); the next only when too few of these are left.
    pub priority: u16,
}

/// Endpoints that a request has been to. Few: a request has few retries.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<usize>);

impl Tried {
    /// Notes that the request has been to endpoint `index`.
    pub fn add(&mut self, index: usize) {
        self.0.push(index);
    }

    /// How many it has been to.
    #[must_use]
    pub fn number(&self) -> usize {
        self.0.len()
    }

    /// Whether it has been to none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has been to endpoint `index`.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.0.contains(&index)
    }
}
