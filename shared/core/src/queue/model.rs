//! The queue under random events, against a model of the world around it.

use super::tests::{NOW, credit, dispatched, entry, queue_with};
use super::*;
use crate::entry::{TenantId, TypeId};
use jetlane_schemas::Priority;
use jetlane_schemas::frame::Credit;
use jetlane_schemas::registry::PolicyName;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What can happen to a queue, in terms that a random generator can make.
#[derive(Debug, Clone)]
enum Step {
    Arrive { priority: usize, age: u64, deadline: Option<u64>, estimate: u64 },
    Next,
    Store,
    Refuse,
    Cancel(usize),
    Take,
    Settle,
    Tell,
    Pull(usize),
    EndPlain(usize),
    Policy(usize),
    End { cost: u64 },
    Remain { place: usize, left: u64 },
    Pause(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4usize, 0..50u64, proptest::option::weighted(0.1, 0..300u64), 1..2_000u64)
            .prop_map(|(priority, age, deadline, estimate)| Step::Arrive { priority, age, deadline, estimate }),
        9 => Just(Step::Next),
        5 => Just(Step::Store),
        1 => Just(Step::Refuse),
        1 => (0..50usize).prop_map(Step::Cancel),
        4 => Just(Step::Take),
        4 => Just(Step::Settle),
        4 => Just(Step::Tell),
        1 => (0..4usize).prop_map(Step::Pull),
        1 => (0..4usize).prop_map(Step::EndPlain),
        1 => (0..PolicyName::ALL.len()).prop_map(Step::Policy),
        4 => (0..5_000u64).prop_map(|cost| Step::End { cost }),
        2 => (0..9usize, 0..9_000u64).prop_map(|(place, left)| Step::Remain { place, left }),
        1 => any::<bool>().prop_map(Step::Pause),
    ];
    proptest::collection::vec(step, 1..300)
}

/// The world around a queue: its executors, its lanes and everything it was told.
struct Model {
    queue: Queue,
    now: u64,
    arrived: BTreeMap<u64, Entry>,
    waiting: BTreeSet<u64>,
    leaving: VecDeque<(u64, Option<LaneKind>)>,
    gone: BTreeSet<u64>,
    /// On the bundle lanes, held by the executor, settled by it.
    lane: u64,
    taken: u64,
    settled: u64,
    /// Plain tasks by priority: dispatched and not ended, and those of them that are stored.
    plain: [u32; 4],
    plain_stored: [u32; 4],
    served: [bool; 4],
    policy: PolicyName,
    paused: bool,
    decisions: Vec<Decision>,
    /// Dispatched and not ended, and those of them that were asked to yield.
    running: VecDeque<u64>,
    asked: BTreeSet<u64>,
}

const CAPACITY: u32 = 3;

impl Model {
    fn new() -> Self {
        let mut queue = Queue::new(Order::of(PolicyName::Strict));
        queue.on(Micros(0), credit(CAPACITY, 0, 0));
        Self {
            queue,
            now: 0,
            arrived: BTreeMap::new(),
            waiting: BTreeSet::new(),
            leaving: VecDeque::new(),
            gone: BTreeSet::new(),
            lane: 0,
            taken: 0,
            settled: 0,
            plain: [0; 4],
            plain_stored: [0; 4],
            served: [false; 4],
            policy: PolicyName::Strict,
            paused: false,
            decisions: Vec::new(),
            running: VecDeque::new(),
            asked: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        let now = Micros(self.now);
        match *step {
            Step::Arrive { priority, age, deadline, estimate } => {
                let arrival = entry(self.arrived.len() as u64, Priority::ALL[priority], self.now.saturating_sub(age));
                let expires = deadline.map(|after| Micros(self.now + after));
                self.arrive(Entry { expires, due: expires, estimate: Micros(estimate), ..arrival });
            }
            Step::Next => {
                if let Some(decision) = self.queue.next(now) {
                    self.decided(decision);
                }
            }
            Step::Store => {
                if let Some((id, kind)) = self.leaving.pop_front() {
                    self.gone.insert(id);
                    self.lane += u64::from(kind == Some(LaneKind::Bundle));
                    self.plain_stored[self.arrived[&id].priority.rank()] += u32::from(kind == Some(LaneKind::Plain));
                    self.queue.on(now, Event::Settled(EntryId(id), Stored::New));
                }
            }
            Step::Refuse => self.refuse(),
            Step::Cancel(place) => self.queue.on(now, Event::Cancelled(EntryId(place as u64))),
            Step::Take if self.lane > 0 && self.taken - self.settled < u64::from(CAPACITY) => {
                self.lane -= 1;
                self.taken += 1;
            }
            Step::Settle if self.taken > self.settled => self.settled += 1,
            Step::Take | Step::Settle => {}
            Step::Tell => self.queue.on(now, credit(CAPACITY, self.taken, self.settled)),
            Step::Pull(rank) => {
                self.served[rank] = true;
                let (priority, fit) = (Priority::ALL[rank], FitId::default());
                self.queue.on(now, Event::PlainPulled { priority, fit, until: now });
            }
            Step::EndPlain(rank) if self.plain_stored[rank] > 0 => {
                self.plain_stored[rank] -= 1;
                self.plain[rank] -= 1;
                let (priority, fit) = (Priority::ALL[rank], FitId::default());
                self.queue.on(now, Event::PlainSettled { priority, fit, tasks: 1 });
            }
            Step::EndPlain(_) => {}
            Step::Policy(place) => {
                self.policy = PolicyName::ALL[place];
                self.queue.on(now, Event::OrderChanged(Order::of(self.policy)));
            }
            Step::End { cost } => {
                if let Some(id) = self.running.pop_front() {
                    self.asked.remove(&id);
                    self.queue.on(now, Event::Ended { entry: EntryId(id), cost: Micros(cost) });
                }
            }
            Step::Remain { place, left } => {
                if let Some(id) = self.running.get(place) {
                    let (entry, remaining) = (EntryId(*id), Micros(left));
                    self.queue.on(now, Event::Remaining { entry, remaining, resume: Micros(20) });
                }
            }
            Step::Pause(paused) => {
                self.paused = paused;
                self.queue.on(now, if paused { Event::Paused } else { Event::Resumed });
            }
        }
    }

    fn arrive(&mut self, mut entry: Entry) {
        let id = entry.id.0;
        (entry.tenant, entry.task_type) = (TenantId((id % 3) as u32), TypeId((id % 2) as u32));
        self.arrived.insert(id, entry);
        self.waiting.insert(id);
        self.queue.on(Micros(self.now), Event::Arrived(entry));
    }

    /// What is leaving could not be stored.
    fn refuse(&mut self) {
        let Some((id, kind)) = self.leaving.pop_front() else { return };
        self.waiting.insert(id);
        self.running.retain(|running| *running != id);
        self.asked.remove(&id);
        if kind == Some(LaneKind::Plain) {
            self.plain[self.arrived[&id].priority.rank()] -= 1;
        }
        self.queue.on(Micros(self.now), Event::NotStored(EntryId(id), Micros(0)));
    }

    fn decided(&mut self, decision: Decision) {
        self.decisions.push(decision);
        let (id, kind) = match decision {
            Decision::Dispatch { entry, kind, .. } => (entry.0, Some(kind)),
            Decision::Expire(entry) | Decision::Drop(entry) => (entry.0, None),
            Decision::Pull { .. } => return,
            Decision::Yield(id) => {
                assert!(self.running.contains(&id.0), "asked to yield, but does not run: {id:?}");
                assert!(self.asked.insert(id.0), "asked twice: {id:?}");
                assert!(self.policy == PolicyName::Srtf && !self.paused && !self.waiting.is_empty());
                return;
            }
        };
        assert!(self.waiting.remove(&id), "{id} was not waiting: {decision:?}");
        self.leaving.push_back((id, kind));
        let Some(kind) = kind else { return };
        self.running.push_back(id);
        assert!(!self.paused, "dispatched while paused");
        let entry = self.arrived[&id];
        assert!(entry.expires.is_none_or(|expires| expires.0 > self.now), "dispatched past its deadline");
        let rank = entry.priority.rank();
        let bundle_room = u64::from(CAPACITY) > self.on_the_way() - u64::from(kind == LaneKind::Bundle);
        match kind {
            LaneKind::Bundle => assert!(bundle_room, "beyond credit"),
            LaneKind::Plain => {
                self.plain[rank] += 1;
                assert!(
                    self.served[rank] && self.plain[rank] <= crate::plain::PLAIN_TASKS_MAX,
                    "beyond the plain lane"
                );
            }
        }
        self.check_order(&entry, kind);
    }

    fn check_order(&self, chosen: &Entry, kind: LaneKind) {
        for other in self.waiting.iter().map(|id| &self.arrived[id]) {
            // A task whose lane had no room could not go first.
            let had_room = kind == LaneKind::Bundle || other.priority == chosen.priority;
            if !had_room {
                continue;
            }
            let (a, b) = ((chosen.first_arrival, chosen.id), (other.first_arrival, other.id));
            let first = match self.policy {
                PolicyName::Strict => (chosen.priority.rank(), a) < (other.priority.rank(), b),
                PolicyName::Fifo => a < b,
                PolicyName::Sjf | PolicyName::Srtf => (chosen.estimate, a) < (other.estimate, b),
                // What these promise has tests of its own.
                PolicyName::Rr | PolicyName::Weighted | PolicyName::Edf | PolicyName::Adaptive => true,
            };
            assert!(first, "{chosen:?} went before {other:?}");
        }
    }

    /// Bundle tasks dispatched and truly not settled.
    fn on_the_way(&self) -> u64 {
        let leaving = self.leaving.iter().filter(|(_, kind)| *kind == Some(LaneKind::Bundle)).count() as u64;
        leaving + self.lane + self.taken - self.settled
    }

    fn check(&self) {
        let all: usize = self.waiting.len() + self.leaving.len() + self.gone.len();
        assert_eq!(all, self.arrived.len(), "each task is in one place");
        assert_eq!(self.queue.held(), self.waiting.len() + self.leaving.len());
        assert!(self.queue.outstanding() >= self.on_the_way(), "the ledger forgot a task");
        assert!(self.on_the_way() <= u64::from(CAPACITY), "beyond credit");
    }
}

proptest! {
    #[test]
    fn each_task_is_in_one_place_in_order_and_within_credit(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
            model.check();
        }
        // Nothing is stranded: with room for all, every task that waits goes.
        model.step(&Step::Pause(false));
        for _ in 0..2_000 {
            for step in [Step::Next, Step::Store, Step::Take, Step::Settle, Step::Tell] {
                model.step(&step);
            }
        }
        prop_assert!(model.waiting.is_empty(), "stranded: {:?}", model.waiting);
        prop_assert_eq!(model.queue.held(), 0);
    }

    #[test]
    fn the_same_events_give_the_same_decisions(steps in steps()) {
        let run = || {
            let mut model = Model::new();
            steps.iter().for_each(|step| model.step(step));
            model.decisions
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn no_numbers_that_an_executor_tells_make_it_panic_or_dispatch_twice(
        told in proptest::collection::vec((any::<u32>(), any::<u64>(), any::<u64>(), 0..3u8), 1..50),
    ) {
        let mut queue = queue_with(&[1, 2, 3].map(|id| entry(id, Priority::Normal, id)));
        let mut seen = BTreeSet::new();
        for (capacity, taken, settled, name) in told {
            let fits = vec!["any".into(), format!("fit-{taken}")];
            let credit = Credit { executor: name.to_string(), capacity, taken, settled, fits, ..Credit::default() };
            queue.on(NOW, Event::Credit(credit));
            for id in dispatched(&mut queue, NOW) {
                prop_assert!(seen.insert(id));
            }
        }
    }
}
