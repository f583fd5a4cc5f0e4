//! Plain lanes: clients in any language that announce nothing. The leader sees their pulls, and the
//! ends of their tasks, and allows each such lane a few tasks at a time.

use crate::entry::{LaneId, Lanes};
use jetlane_schemas::Micros;

/// The most tasks in a plain lane, unpulled or unacknowledged; one more with each that ends.
pub const PLAIN_TASKS_MAX: u32 = 4;
/// A lane counts as served until its last pull has expired for so long. What nobody has pulled in
/// that time the dispatcher takes back.
pub const PLAIN_SILENCE_MAX: Micros = Micros(5_000_000);

#[derive(Debug, Clone, Copy, Default)]
struct PlainLane {
    outstanding: u32,
    served_until: Micros,
}

/// The plain lanes of one queue.
#[derive(Debug)]
pub(crate) struct PlainLanes {
    lanes: Vec<PlainLane>,
    /// Those that have been pulled from, and those with room.
    served: Lanes,
    open: Lanes,
}

impl Default for PlainLanes {
    fn default() -> Self {
        Self { lanes: vec![PlainLane::default(); LaneId::COUNT], served: Lanes::default(), open: Lanes::default() }
    }
}

impl PlainLanes {
    /// The lanes with room.
    pub(crate) fn open(&self) -> Lanes {
        self.open
    }

    pub(crate) fn pulled(&mut self, lane: LaneId, until: Micros) {
        let until = Micros(until.0.saturating_add(PLAIN_SILENCE_MAX.0));
        let state = &mut self.lanes[lane.number()];
        state.served_until = state.served_until.max(until);
        self.served.insert(lane);
        self.update(lane);
    }

    pub(crate) fn dispatched(&mut self, lane: LaneId) {
        self.lanes[lane.number()].outstanding += 1;
        self.update(lane);
    }

    pub(crate) fn settled(&mut self, lane: LaneId, tasks: u32) {
        let state = &mut self.lanes[lane.number()];
        state.outstanding = state.outstanding.saturating_sub(tasks);
        self.update(lane);
    }

    pub(crate) fn counted(&mut self, lane: LaneId, tasks: u32) {
        self.lanes[lane.number()].outstanding = tasks;
        self.update(lane);
    }

    /// Looks for lanes that nobody pulls from any more.
    pub(crate) fn check(&mut self, now: Micros) {
        for lane in self.served {
            if self.lanes[lane.number()].served_until < now {
                self.served.remove(lane);
                self.update(lane);
            }
        }
    }

    fn update(&mut self, lane: LaneId) {
        if self.served.contains(lane) && self.lanes[lane.number()].outstanding < PLAIN_TASKS_MAX {
            self.open.insert(lane);
        } else {
            self.open.remove(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::FitId;
    use jetlane_schemas::Priority;

    fn lane() -> LaneId {
        LaneId::new(Priority::Normal, FitId::default())
    }

    #[test]
    fn a_lane_that_is_pulled_from_takes_four_and_one_more_with_each_that_ends() {
        let mut lanes = PlainLanes::default();
        assert!(!lanes.open().contains(lane()));
        lanes.pulled(lane(), Micros(1));
        for _ in 0..PLAIN_TASKS_MAX {
            assert!(lanes.open().contains(lane()));
            lanes.dispatched(lane());
        }
        assert!(!lanes.open().contains(lane()));
        lanes.settled(lane(), 1);
        assert!(lanes.open().contains(lane()));
    }

    #[test]
    fn a_lane_closes_once_nobody_has_pulled_for_long_and_opens_with_the_next_pull() {
        let mut lanes = PlainLanes::default();
        lanes.pulled(lane(), Micros(10));
        lanes.check(Micros(10 + PLAIN_SILENCE_MAX.0));
        assert!(lanes.open().contains(lane()));
        lanes.check(Micros(11 + PLAIN_SILENCE_MAX.0));
        assert!(lanes.open().is_empty());
        lanes.pulled(lane(), Micros(PLAIN_SILENCE_MAX.0 * 2));
        assert!(lanes.open().contains(lane()));
    }
}
