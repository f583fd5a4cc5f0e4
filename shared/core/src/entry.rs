//! What the queue knows of a waiting task, and the small numbers that stand for names.

use jetlane_schemas::{Micros, Priority};

/// The most fits of one queue: lanes are a bit each in a word.
pub const FITS_MAX: usize = 16;

/// A waiting task, numbered by the caller in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// A flow, numbered by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u32);

/// A tenant, numbered by the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// A task type, numbered by the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

/// A fit of the queue: its place in the queue's table, under [`FITS_MAX`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FitId(u8);

impl FitId {
    /// The fit at this place of the table; `None` from [`FITS_MAX`] on.
    pub fn new(place: usize) -> Option<Self> {
        if place < FITS_MAX { u8::try_from(place).ok().map(Self) } else { None }
    }

    /// Its place in the table.
    pub fn place(self) -> usize {
        usize::from(self.0)
    }
}

/// A waiting task without its payload, which stays with the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: EntryId,
    /// The flow that it was read from.
    pub flow: FlowId,
    /// How urgent it is.
    pub priority: Priority,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is.
    pub task_type: TypeId,
    /// Which executors can take it at all.
    pub fit: FitId,
    /// When the broker first stored it: age counts from here, whatever happens to it later.
    pub first_arrival: Micros,
    /// When it is ended if it has not started.
    pub expires: Option<Micros>,
    /// Until when it should have ended: what `edf` sorts by.
    pub due: Option<Micros>,
    /// How long it will probably run; what is left of it where it has yielded.
    pub estimate: Micros,
    /// How often it has yielded.
    pub yields: u32,
    /// The size of its message, for the window's bound on bytes.
    pub bytes: u32,
}

impl Entry {
    /// The lane that it goes to.
    pub fn lane(&self) -> LaneId {
        LaneId::new(self.priority, self.fit)
    }
}

/// A lane of a queue, priority x fit, in either of its two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(u8);

impl LaneId {
    /// How many there can be.
    pub const COUNT: usize = Priority::ALL.len() * FITS_MAX;

    /// The lane of this priority and fit.
    pub fn new(priority: Priority, fit: FitId) -> Self {
        Self(priority.rank() as u8 * FITS_MAX as u8 + fit.0)
    }

    /// Its number, under [`LaneId::COUNT`]: the more urgent, the lower.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// Its priority.
    pub fn priority(self) -> Priority {
        Priority::ALL[self.number() / FITS_MAX]
    }

    /// Its fit.
    pub fn fit(self) -> FitId {
        FitId(self.0 % FITS_MAX as u8)
    }
}

/// A set of lanes, one bit each, the most urgent in the lowest bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lanes(u64);

impl Lanes {
    /// Bits of one priority.
    const OF_PRIORITY: u64 = (1 << FITS_MAX) - 1;

    /// Every lane.
    pub fn all() -> Self {
        Self(u64::MAX)
    }

    /// Adds a lane.
    pub fn insert(&mut self, lane: LaneId) {
        self.0 |= 1 << lane.0;
    }

    /// Takes a lane out.
    pub fn remove(&mut self, lane: LaneId) {
        self.0 &= !(1 << lane.0);
    }

    /// Adds a fit's lanes of every priority.
    pub fn insert_fit(&mut self, fit: FitId) {
        for priority in Priority::ALL {
            self.insert(LaneId::new(priority, fit));
        }
    }

    /// Whether the lane is in the set.
    pub fn contains(self, lane: LaneId) -> bool {
        self.0 & (1 << lane.0) != 0
    }

    /// Whether no lane is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lanes in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The lanes in either set.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The lanes of one priority.
    #[must_use]
    pub fn of(self, priority: Priority) -> Self {
        Self(self.0 & (Self::OF_PRIORITY << (priority.rank() * FITS_MAX)))
    }

    /// Those of the most urgent priority that has any.
    #[must_use]
    pub fn most_urgent(self) -> Self {
        if self.0 == 0 {
            return self;
        }
        let shift = self.0.trailing_zeros() / FITS_MAX as u32 * FITS_MAX as u32;
        Self(self.0 & (Self::OF_PRIORITY << shift))
    }
}

impl Iterator for Lanes {
    type Item = LaneId;

    fn next(&mut self) -> Option<LaneId> {
        if self.0 == 0 {
            return None;
        }
        let lane = LaneId(self.0.trailing_zeros() as u8);
        self.remove(lane);
        Some(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_says_which_priority_and_fit_it_was_made_of() {
        let mut seen = Lanes::default();
        for priority in Priority::ALL {
            for place in 0..FITS_MAX {
                let fit = FitId::new(place).expect("in range");
                let lane = LaneId::new(priority, fit);
                assert_eq!((lane.priority(), lane.fit()), (priority, fit));
                assert!(!seen.contains(lane), "two lanes share a bit");
                seen.insert(lane);
            }
        }
        assert_eq!(seen, Lanes::all());
        assert_eq!(FitId::new(FITS_MAX), None);
    }

    #[test]
    fn the_most_urgent_lanes_are_those_of_one_priority() {
        let lane = |priority, place| LaneId::new(priority, FitId::new(place).expect("in range"));
        let mut lanes = Lanes::default();
        assert!(lanes.most_urgent().is_empty());
        for set in [lane(Priority::Low, 0), lane(Priority::Normal, 15), lane(Priority::Normal, 2)] {
            lanes.insert(set);
        }
        let urgent: Vec<_> = lanes.most_urgent().collect();
        assert_eq!(urgent, [lane(Priority::Normal, 2), lane(Priority::Normal, 15)]);
    }
}
