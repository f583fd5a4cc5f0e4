//! Recognises messages of one run of a task that arrive more than once.
//!
//! A copy may be acknowledged at once: the first is still stored in the stream, or in its lane. What left is
//! remembered for [`REMEMBERED_FOR`] only: a task that is submitted again under its own id later may have no
//! completion any more, and acknowledging it would lose it. It is a new arrival then, and DONE decides.

use crate::entry::EntryId;
use jetlane_schemas::{Micros, TaskId, TaskType};
use std::collections::{BTreeMap, VecDeque};

/// The most runs that are remembered after they left.
pub const REMEMBERED_MAX: usize = 16_384;
/// How long they are: as long as the streams remember message ids. A message that is older than its ack, or that a
/// submitter sent twice because an answer was late, comes within that time.
pub const REMEMBERED_FOR: Micros = Micros(120_000_000);

/// Where a message lies: a number for its stream, and its sequence there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The stream, numbered by the caller.
    pub origin: u32,
    /// Its sequence.
    pub sequence: u64,
}

/// What an arrival is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first of its run: hold it.
    New,
    /// A message of a run that is held or left: acknowledge it.
    Copy,
    /// Another message of a first run that is known to be under way: look again in a moment, since its end may have been
    /// reported already; acknowledge it then.
    UnderWay,
    /// Another message of a first run that left and is not known to be under way: hold it as a suspect. It is a copy if
    /// DONE has its completion, and a task of its own if DONE has none any more.
    Repeated,
}

/// What became of a run that left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It is stored in its lane, or its completion is stored.
    MayEnd,
    /// A later run of the task is stored: a delay, a retry, a hand-back.
    GoesOn,
}

/// A message of a task's run, as it arrives.
#[derive(Debug, Clone, Copy)]
pub struct Arriving<'a> {
    /// The task.
    pub task_type: &'a TaskType,
    /// Its id, which is unique within its type.
    pub id: &'a TaskId,
    /// The run.
    pub run: u32,
    /// Where the message lies.
    pub source: Source,
    /// The number that it is held under, if it is.
    pub entry: EntryId,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Held(EntryId, Source),
    Left { source: Source, at: Micros, departure: Departure },
}

/// The runs that are held, and the last that left: at most [`REMEMBERED_MAX`], for [`REMEMBERED_FOR`].
#[derive(Debug, Default)]
pub struct Duplicates {
    runs: BTreeMap<Key, State>,
    left: VecDeque<(Micros, Key)>,
}

/// A run of a task. Compared by how its id begins first: one comparison of numbers, which is enough for nearly
/// all, where a tree compares dozens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    head: u128,
    id: TaskId,
    /// `None` stands before every type.
    task_type: Option<TaskType>,
    run: u32,
}

impl Key {
    fn of(task_type: &TaskType, id: &TaskId, run: u32) -> Self {
        Self { task_type: Some(task_type.clone()), ..Self::first_of(id, run) }
    }

    fn first_of(id: &TaskId, run: u32) -> Self {
        let mut head = [0; 16];
        head.iter_mut().zip(id.as_str().bytes()).for_each(|(to, from)| *to = from);
        Self { head: u128::from_be_bytes(head), id: id.clone(), task_type: None, run }
    }
}

impl Duplicates {
    /// Takes note of a run's message. It is held under its number if it is [`Arrival::New`] or
    /// [`Arrival::Repeated`].
    ///
    /// `is_under_way` says whether a run of the task is known to be in a lane or with an executor; it is called only
    /// for a message that may be a copy of one.
    pub fn arrived(&mut self, now: Micros, message: Arriving<'_>, is_under_way: impl FnOnce() -> bool) -> Arrival {
        use std::collections::btree_map::Entry;
        let Arriving { task_type, id, run, source, entry } = message;
        match self.runs.entry(Key::of(task_type, id, run)) {
            Entry::Vacant(place) => {
                place.insert(State::Held(entry, source));
                Arrival::New
            }
            Entry::Occupied(mut place) => {
                let arrival = match *place.get() {
                    State::Held(..) => Arrival::Copy,
                    State::Left { at, .. } if is_past(now, at) => Arrival::New,
                    // The very message whose ack was late or lost.
                    State::Left { source: from, .. } if from == source => Arrival::Copy,
                    // Only first runs are submitted; what goes on has its completion before it.
                    State::Left { departure: Departure::MayEnd, .. } if run <= 1 => {
                        if is_under_way() {
                            Arrival::UnderWay
                        } else {
                            Arrival::Repeated
                        }
                    }
                    State::Left { .. } => Arrival::Copy,
                };
                if matches!(arrival, Arrival::New | Arrival::Repeated) {
                    place.insert(State::Held(entry, source));
                }
                arrival
            }
        }
    }

    /// The run is stored in its lane, or completed, or a later one is stored: its message is acknowledged.
    pub fn left(&mut self, now: Micros, task_type: &TaskType, id: &TaskId, run: u32, departure: Departure) {
        let key = Key::of(task_type, id, run);
        match self.runs.get_mut(&key) {
            Some(state) => match *state {
                State::Held(_, source) => *state = State::Left { source, at: now, departure },
                State::Left { .. } => return,
            },
            None => return,
        }
        self.left.push_back((now, key));
        while let Some((at, _)) = self.left.front()
            && (self.left.len() > REMEMBERED_MAX || is_past(now, *at))
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((left_at, key)) = self.left.pop_front() else { return };
        // It may have arrived again, and even left again, since.
        if matches!(self.runs.get(&key), Some(State::Left { at, .. }) if *at == left_at) {
            self.runs.remove(&key);
        }
    }

    /// Forgets the runs of an earlier task of a key that left, once a message holds the key for a task of its own.
    /// Returns the first run of the earlier task where it is still held: that task has ended, and neither message is a
    /// copy of the other. Runs of the message itself stay known.
    pub fn claimed(&mut self, task_type: &TaskType, id: &TaskId, source: Source) -> Option<EntryId> {
        let earlier = |state: &State| matches!(state, State::Left { source: from, .. } if *from != source);
        let runs = self.runs.range(Key::of(task_type, id, 0)..=Key::of(task_type, id, u32::MAX));
        let forgotten: Vec<Key> = runs.filter(|(_, state)| earlier(state)).map(|(key, _)| key.clone()).collect();
        for key in forgotten {
            self.runs.remove(&key);
        }
        match self.runs.get(&Key::of(task_type, id, 1)) {
            Some(State::Held(entry, from)) if *from != source => Some(*entry),
            Some(_) | None => None,
        }
    }

    /// A run that left has ended, and a later one of the task follows.
    pub fn goes_on(&mut self, task_type: &TaskType, id: &TaskId, run: u32) {
        if let Some(State::Left { departure, .. }) = self.runs.get_mut(&Key::of(task_type, id, run)) {
            *departure = Departure::GoesOn;
        }
    }

    /// Whether a later run of the task is held or left a short time ago: the task goes on by that run.
    pub fn has_later(&self, now: Micros, task_type: &TaskType, id: &TaskId, run: u32) -> bool {
        let is_known = |state: &State| match state {
            State::Held(..) => true,
            State::Left { at, .. } => !is_past(now, *at),
        };
        let first = Key::of(task_type, id, run.saturating_add(1));
        first.run > run && self.runs.range(first..=Key::of(task_type, id, u32::MAX)).any(|(_, state)| is_known(state))
    }

    /// The run is given up without being stored: a later arrival is new.
    pub fn forget(&mut self, task_type: &TaskType, id: &TaskId, run: u32) {
        let key = Key::of(task_type, id, run);
        if matches!(self.runs.get(&key), Some(State::Held(..))) {
            self.runs.remove(&key);
        }
    }

    /// The runs that are held of tasks with this id, each with its task's type.
    pub fn held<'a>(&'a self, id: &'a TaskId) -> impl Iterator<Item = (&'a TaskType, EntryId)> + 'a {
        self.runs.range(Key::first_of(id, 0)..).take_while(|(key, _)| key.id == *id).filter_map(|(key, state)| {
            match state {
                State::Held(entry, _) => Some((key.task_type.as_ref()?, *entry)),
                State::Left { .. } => None,
            }
        })
    }
}

/// Whether what left at `at` is not remembered any more.
fn is_past(now: Micros, at: Micros) -> bool {
    now.0.saturating_sub(at.0) > REMEMBERED_FOR.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TaskId {
        TaskId::new(text).expect("valid")
    }

    fn kind(text: &str) -> TaskType {
        TaskType::new(text).expect("valid")
    }

    const NOW: Micros = Micros(1_700_000_000_000_000);
    const HERE: u64 = 7;
    const THERE: u64 = 8;

    #[derive(Default)]
    struct Runs(Duplicates);

    impl Runs {
        fn arrives(&mut self, now: Micros, (name, run): (&str, u32), sequence: u64, entry: u64) -> Arrival {
            let (task_type, id) = (kind("a.b"), id(name));
            let source = Source { origin: 1, sequence };
            let message = Arriving { task_type: &task_type, id: &id, run, source, entry: EntryId(entry) };
            self.0.arrived(now, message, || false)
        }

        fn leaves(&mut self, now: Micros, (name, run): (&str, u32), departure: Departure) {
            self.0.left(now, &kind("a.b"), &id(name), run, departure);
        }
    }

    fn after(minutes: u64) -> Micros {
        Micros(NOW.0 + minutes * 60_000_000)
    }

    #[test]
    fn message_of_a_held_run_is_a_copy() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrives(NOW, ("a", 1), HERE, 1), Arrival::New);
        assert_eq!(runs.arrives(NOW, ("a", 1), HERE, 2), Arrival::Copy);
        assert_eq!(runs.arrives(after(60), ("a", 1), THERE, 3), Arrival::Copy, "it is still held");
        assert_eq!(runs.arrives(NOW, ("a", 2), THERE, 4), Arrival::New);
    }

    #[test]
    fn later_run_that_is_held_or_has_just_left_shows_that_its_task_goes_on() {
        let mut runs = Runs::default();
        runs.arrives(NOW, ("a", 1), HERE, 1);
        runs.arrives(NOW, ("b", 2), THERE, 2);
        let has_later = |runs: &Runs, now, run| runs.0.has_later(now, &kind("a.b"), &id("a"), run);
        assert!(!has_later(&runs, NOW, 1), "the other run is another task's");
        runs.arrives(NOW, ("a", 3), THERE + 1, 3);
        assert!(has_later(&runs, NOW, 1) && !has_later(&runs, NOW, 3) && !has_later(&runs, NOW, u32::MAX));
        runs.leaves(NOW, ("a", 3), Departure::MayEnd);
        assert!(has_later(&runs, after(1), 1) && !has_later(&runs, after(60), 1));
    }

    #[test]
    fn same_id_of_two_types_is_two_tasks() {
        let mut runs = Runs::default();
        assert_eq!(runs.arrives(NOW, ("a", 1), HERE, 1), Arrival::New);
        let (task_type, id) = (kind("a.c"), id("a"));
        let source = Source { origin: 1, sequence: THERE };
        let other = Arriving { task_type: &task_type, id: &id, run: 1, source, entry: EntryId(2) };
        assert_eq!(runs.0.arrived(NOW, other, || true), Arrival::New);
        runs.leaves(NOW, ("a", 1), Departure::MayEnd);
        assert_eq!(runs.0.held(&id).collect::<Vec<_>>(), [(&task_type, EntryId(2))]);
    }

    #[test]
    fn task_submitted_again_after_an_hour_is_new_however_few_others_passed() {
        for departure in [Departure::MayEnd, Departure::GoesOn] {
            let mut runs = Runs::default();
            runs.arrives(NOW, ("a", 1), HERE, 1);
            runs.leaves(NOW, ("a", 1), departure);
            assert_eq!(runs.arrives(after(60), ("a", 1), THERE, 2), Arrival::New);
            assert_eq!(runs.arrives(after(60), ("a", 1), HERE + 9, 3), Arrival::Copy, "it is held again");
            // What was remembered of its first time does not make it forgotten.
            runs.arrives(after(60), ("b", 1), 20, 4);
            runs.leaves(after(60), ("b", 1), Departure::MayEnd);
            assert_eq!(runs.arrives(after(60), ("a", 1), THERE, 5), Arrival::Copy);
        }
    }

    #[test]
    fn late_ack_makes_a_copy_and_another_message_of_an_ended_run_is_a_suspect() {
        let mut runs = Runs::default();
        runs.arrives(NOW, ("a", 1), HERE, 1);
        runs.leaves(NOW, ("a", 1), Departure::MayEnd);
        assert_eq!(runs.arrives(after(1), ("a", 1), HERE, 2), Arrival::Copy, "its ack was lost");
        let (task_type, id) = (kind("a.b"), id("a"));
        let source = Source { origin: 1, sequence: THERE };
        let again = Arriving { task_type: &task_type, id: &id, run: 1, source, entry: EntryId(3) };
        assert_eq!(runs.0.arrived(after(1), again, || true), Arrival::UnderWay);
        assert_eq!(runs.0.arrived(after(1), again, || false), Arrival::Repeated);
        assert_eq!(runs.0.held(&id).count(), 1);
    }

    #[test]
    fn copy_of_a_task_that_goes_on_is_no_suspect_and_neither_is_one_of_a_later_run() {
        let mut runs = Runs::default();
        for (task, departure) in
            [(("a", 1), Departure::GoesOn), (("b", 1), Departure::MayEnd), (("c", 2), Departure::MayEnd)]
        {
            runs.arrives(NOW, task, HERE, 1);
            runs.leaves(NOW, task, departure);
        }
        runs.0.goes_on(&kind("a.b"), &id("b"), 1);
        for task in [("a", 1), ("b", 1), ("c", 2)] {
            assert_eq!(runs.arrives(NOW, task, THERE, 2), Arrival::Copy, "{task:?}");
        }
    }

    #[test]
    fn task_of_a_key_is_no_copy_of_an_earlier_one_and_neither_are_its_later_runs() {
        let mut runs = Runs::default();
        for run in 1..=2 {
            runs.arrives(NOW, ("a", run), HERE + u64::from(run), 1);
            runs.leaves(NOW, ("a", run), Departure::GoesOn);
        }
        let message = |sequence| Source { origin: 1, sequence };
        assert_eq!(runs.0.claimed(&kind("a.b"), &id("a"), message(HERE + 1)), None);
        assert_eq!(runs.arrives(NOW, ("a", 1), HERE + 1, 2), Arrival::Copy, "its ack was lost");
        assert_eq!(runs.0.claimed(&kind("a.b"), &id("a"), message(THERE + 9)), None);
        assert_eq!(runs.arrives(NOW, ("a", 1), THERE + 9, 3), Arrival::New);
        assert_eq!(runs.arrives(NOW, ("a", 2), THERE + 10, 4), Arrival::New);
        assert_eq!(runs.0.claimed(&kind("a.b"), &id("a"), message(THERE + 9)), None, "it is its own");
        let earlier = runs.0.claimed(&kind("a.b"), &id("a"), message(THERE + 11));
        assert_eq!(earlier, Some(EntryId(3)), "the earlier task is to leave first");
    }

    #[test]
    fn memory_of_runs_that_left_is_bounded_by_number_and_by_time() {
        let mut runs = Runs::default();
        runs.arrives(NOW, ("a", 1), HERE, 1);
        runs.leaves(NOW, ("a", 1), Departure::MayEnd);
        for n in 0..REMEMBERED_MAX {
            let name = format!("b{n}");
            runs.arrives(NOW, (&name, 1), THERE, 0);
            runs.leaves(NOW, (&name, 1), Departure::MayEnd);
        }
        assert_eq!((runs.0.runs.len(), runs.0.left.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!(runs.arrives(NOW, ("a", 1), HERE, 3), Arrival::New);
        runs.leaves(after(3), ("a", 1), Departure::MayEnd);
        assert_eq!((runs.0.runs.len(), runs.0.left.len()), (1, 1), "what left 3 minutes ago is forgotten");
    }

    #[test]
    fn run_given_up_is_new_when_it_comes_back() {
        let mut runs = Runs::default();
        runs.arrives(NOW, ("a", 1), HERE, 1);
        runs.0.forget(&kind("a.b"), &id("a"), 1);
        assert_eq!(runs.arrives(NOW, ("a", 1), THERE, 2), Arrival::New);
    }

    #[test]
    fn all_held_runs_of_an_id_are_found_and_of_no_other() {
        let mut runs = Runs::default();
        let long = "0123456789abcdef";
        for (name, run) in [("a", 1), ("a", 2), ("aa", 1), ("b", 1), (&format!("{long}g"), 3), (&format!("{long}h"), 4)]
        {
            runs.arrives(NOW, (name, run), HERE, u64::from(run));
        }
        runs.leaves(NOW, ("a", 1), Departure::MayEnd);
        let held = |name: &str| runs.0.held(&id(name)).map(|(_, entry)| entry).collect::<Vec<_>>();
        assert_eq!(held("a"), [EntryId(2)]);
        assert_eq!(held(&format!("{long}g")), [EntryId(3)]);
    }
}
