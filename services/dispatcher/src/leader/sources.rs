//! The messages that are held: which of their tasks are not settled, and when the server was last
//! told that they are alive.

use jetlane_bus::Ack;
use jetlane_bus::flows::FLOW_HOLD_EVERY;
use std::collections::{HashMap, VecDeque};
use tokio::time::Instant;

/// A held message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SourceId(u64);

/// Where a message lies: its stream, and its sequence there.
pub(crate) type Place = (&'static str, u64);

#[derive(Debug)]
struct Source {
    ack: Ack,
    place: Place,
    /// Tasks of it that are not settled.
    open: usize,
    /// Whether the server is to keep it when its tasks are gone.
    left_behind: LeftBehind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftBehind {
    No,
    Yes,
}

/// All messages that a leader holds.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    sources: HashMap<SourceId, Source>,
    places: HashMap<Place, SourceId>,
    /// When each is due for a sign of life. Most are gone by then.
    signs: VecDeque<(Instant, SourceId)>,
    count: u64,
}

impl Sources {
    /// Whether the message is held; if so it was delivered again, and the newer delivery is answered.
    pub(crate) fn is_held(&mut self, place: Place, ack: &Ack) -> bool {
        let Some(source) = self.places.get(&place).and_then(|id| self.sources.get_mut(id)) else { return false };
        source.ack = ack.clone();
        true
    }

    /// Holds a message of so many tasks.
    pub(crate) fn hold(&mut self, place: Place, ack: Ack, tasks: usize) -> SourceId {
        self.count += 1;
        let id = SourceId(self.count);
        self.sources.insert(id, Source { ack, place, open: tasks, left_behind: LeftBehind::No });
        self.places.insert(place, id);
        self.signs.push_back((Instant::now() + FLOW_HOLD_EVERY, id));
        id
    }

    /// One of its tasks is settled. The ack, once it was the last.
    pub(crate) fn settle(&mut self, id: SourceId) -> Option<Ack> {
        let source = self.sources.get_mut(&id)?;
        source.open = source.open.saturating_sub(1);
        if source.open > 0 {
            return None;
        }
        let source = self.sources.remove(&id)?;
        self.places.remove(&source.place);
        (source.left_behind == LeftBehind::No).then_some(source.ack)
    }

    /// One of its tasks is given up without being stored: the message is not acknowledged. How it is given back, once
    /// it was the last.
    pub(crate) fn leave(&mut self, id: SourceId) -> Option<Ack> {
        let source = self.sources.get_mut(&id)?;
        source.left_behind = LeftBehind::Yes;
        let ack = source.ack.clone();
        let _never_acknowledged = self.settle(id);
        (!self.sources.contains_key(&id)).then_some(ack)
    }

    /// Those that are due for a sign of life.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Ack> {
        let mut due = Vec::new();
        while let Some(&(at, id)) = self.signs.front()
            && at <= now
        {
            self.signs.pop_front();
            if let Some(source) = self.sources.get(&id) {
                due.push(source.ack.clone());
                self.signs.push_back((now + FLOW_HOLD_EVERY, id));
            }
        }
        due
    }

    /// The acks of all.
    pub(crate) fn acks(&self) -> impl Iterator<Item = &Ack> {
        self.sources.values().map(|source| &source.ack)
    }
}
