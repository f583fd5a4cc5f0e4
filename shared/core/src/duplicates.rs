//! The same run of a task, arriving twice: held now, or dispatched a moment ago.
//!
//! A copy may be acknowledged at once: the first is still stored in the stream, or in its lane. A
//! message that is delivered again because its acknowledgement was late or lost is no copy: while it
//! is held, acknowledging it would remove what only memory has.

use crate::entry::EntryId;
use jetlane_schemas::TaskId;
use std::collections::{BTreeMap, VecDeque};

/// How many runs are remembered after they left.
pub const REMEMBERED_MAX: usize = 16_384;

/// Where a message lies: a number for its stream or flow, and its sequence there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The stream or flow, numbered by the caller.
    pub origin: u32,
    /// Its sequence.
    pub sequence: u64,
}

/// What an arrival is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first of its run: hold it.
    New,
    /// The very message that is held under this number, delivered again: go on holding it.
    Again(EntryId),
    /// Another message of a run that is held, or a message of a run that left: acknowledge it.
    Copy,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Held(EntryId, Source),
    Left,
}

/// The runs that are held, and the last [`REMEMBERED_MAX`] that left.
#[derive(Debug, Default)]
pub struct Duplicates {
    runs: BTreeMap<Key, State>,
    left: VecDeque<Key>,
}

/// A run of a task. Compared by how its id begins first: one comparison of numbers, which is enough for nearly
/// all, where a tree compares dozens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    head: u128,
    id: TaskId,
    run: u32,
}

impl Key {
    fn of(id: &TaskId, run: u32) -> Self {
        let mut head = [0; 16];
        head.iter_mut().zip(id.as_str().bytes()).for_each(|(to, from)| *to = from);
        Self { head: u128::from_be_bytes(head), id: id.clone(), run }
    }
}

impl Duplicates {
    /// Takes note of a run's message. It is held as `entry` if it is [`Arrival::New`].
    pub fn arrived(&mut self, id: &TaskId, run: u32, source: Source, entry: EntryId) -> Arrival {
        use std::collections::btree_map::Entry;
        match self.runs.entry(Key::of(id, run)) {
            Entry::Vacant(place) => {
                place.insert(State::Held(entry, source));
                Arrival::New
            }
            Entry::Occupied(place) => match *place.get() {
                State::Held(held, from) if from == source => Arrival::Again(held),
                State::Held(..) | State::Left => Arrival::Copy,
            },
        }
    }

    /// The run is stored in its lane, or completed: its message is acknowledged.
    pub fn left(&mut self, id: &TaskId, run: u32) {
        let key = Key::of(id, run);
        match self.runs.get_mut(&key) {
            Some(state @ State::Held(..)) => *state = State::Left,
            Some(State::Left) | None => return,
        }
        self.left.push_back(key);
        if self.left.len() > REMEMBERED_MAX
            && let Some(oldest) = self.left.pop_front()
        {
            self.runs.remove(&oldest);
        }
    }

    /// The run is given up without being stored: a later arrival is new.
    pub fn forget(&mut self, id: &TaskId, run: u32) {
        let key = Key::of(id, run);
        if matches!(self.runs.get(&key), Some(State::Held(..))) {
            self.runs.remove(&key);
        }
    }

    /// The runs of a task that are held.
    pub fn held(&self, id: &TaskId) -> impl Iterator<Item = EntryId> + '_ {
        self.runs.range(Key::of(id, 0)..=Key::of(id, u32::MAX)).filter_map(|(_, state)| match state {
            State::Held(entry, _) => Some(*entry),
            State::Left => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TaskId {
        TaskId::new(text).expect("valid")
    }

    const HERE: Source = Source { origin: 1, sequence: 7 };
    const THERE: Source = Source { origin: 1, sequence: 8 };

    #[test]
    fn a_held_message_that_comes_again_is_not_taken_for_a_copy() {
        let mut runs = Duplicates::default();
        assert_eq!(runs.arrived(&id("a"), 1, HERE, EntryId(1)), Arrival::New);
        assert_eq!(runs.arrived(&id("a"), 1, HERE, EntryId(2)), Arrival::Again(EntryId(1)));
        assert_eq!(runs.arrived(&id("a"), 1, THERE, EntryId(3)), Arrival::Copy);
        assert_eq!(runs.arrived(&id("a"), 2, THERE, EntryId(4)), Arrival::New);
    }

    #[test]
    fn a_run_that_left_is_known_until_so_many_others_have_left() {
        let mut runs = Duplicates::default();
        runs.arrived(&id("a"), 1, HERE, EntryId(1));
        runs.left(&id("a"), 1);
        assert_eq!(runs.arrived(&id("a"), 1, HERE, EntryId(2)), Arrival::Copy);
        for n in 0..REMEMBERED_MAX {
            let other = id(&format!("b{n}"));
            runs.arrived(&other, 1, THERE, EntryId(0));
            runs.left(&other, 1);
        }
        assert_eq!(runs.runs.len(), REMEMBERED_MAX);
        assert_eq!(runs.arrived(&id("a"), 1, HERE, EntryId(3)), Arrival::New);
    }

    #[test]
    fn a_run_given_up_is_new_when_it_comes_back() {
        let mut runs = Duplicates::default();
        runs.arrived(&id("a"), 1, HERE, EntryId(1));
        runs.forget(&id("a"), 1);
        assert_eq!(runs.arrived(&id("a"), 1, THERE, EntryId(2)), Arrival::New);
    }

    #[test]
    fn all_held_runs_of_a_task_are_found_and_of_no_other() {
        let mut runs = Duplicates::default();
        let long = "0123456789abcdef";
        for (name, run) in [("a", 1), ("a", 2), ("aa", 1), ("b", 1), (&format!("{long}g"), 3), (&format!("{long}h"), 4)]
        {
            runs.arrived(&id(name), run, HERE, EntryId(u64::from(run)));
        }
        runs.left(&id("a"), 1);
        assert_eq!(runs.held(&id("a")).collect::<Vec<_>>(), [EntryId(2)]);
        assert_eq!(runs.held(&id(&format!("{long}g"))).collect::<Vec<_>>(), [EntryId(3)]);
    }
}
