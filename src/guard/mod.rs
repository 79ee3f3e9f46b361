//! The guard: compares the two paths, leads the ramp, rolls back by itself, names who blocks an event
//! loop, and certifies that a path may be switched off.
//!
//! Pure are `counts`, `evidence`, `judge` and `verdict` (the statistics), `helm` (what
//! bounds the weight), `stall` (who blocks), `retire` (when a path is done), `loglinear` and most of
//! `baseline`. `sampler` reads the workers' counters, `desk` puts it all together, `orders` carries out
//! what follows.

pub mod baseline;
pub mod chores;
pub mod counts;
pub mod decision;
pub mod desk;
pub mod duty;
pub mod evidence;
pub mod fetch;
mod figures;
pub mod helm;
pub mod history;
pub mod judge;
pub mod loglinear;
pub mod orders;
pub mod path_drain;
pub mod policy;
pub mod process;
pub mod recording;
pub mod retire;
pub mod retiring;
pub mod run;
pub mod sampler;
pub mod stall;
pub mod stalls;
pub mod usage;
pub mod verdict;
