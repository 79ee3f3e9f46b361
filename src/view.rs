//! The snapshot in force, with one worker's paths for it.

use std::rc::Rc;
use std::sync::Arc;

use crate::publisher::Publisher;
use crate::snapshot::Snapshot;
use crate::upstream::path::{Path, Supplies};
use crate::vocab::PerSide;

/// What one request sees from its head to its end.
#[derive(Debug)]
pub struct View {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// The paths.
    pub paths: PerSide<Rc<Path>>,
}

impl View {
    /// The view of `snapshot`. A path whose plan is the same goes on; of others, pools
    /// that still fit go on, and the rest are retired.
    #[must_use]
    pub fn new(
        snapshot: Arc<Snapshot>,
        publisher: &Publisher,
        supplies: &Supplies,
        old: Option<&Self>,
    ) -> Rc<Self> {
        let paths = PerSide::from_fn(|side| {
            let plan = snapshot.plans.get(side).clone();
            let old = old.map(|old| old.paths.get(side));
            if let Some(same) = old.filter(|old| Arc::ptr_eq(&old.plan, &plan)) {
                return same.clone();
            }
            Path::new(side, plan, publisher.shared(side), old.map(|old| &**old), supplies)
        });
        Rc::new(Self { snapshot, paths })
    }
}
