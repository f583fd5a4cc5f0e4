//! What one decision costs: a task leaves and another arrives, with so many waiting and so many flows.

use criterion::{Criterion, criterion_group, criterion_main};
use jetlane_core::{Decision, Entry, EntryId, Event, FitId, FlowId, Queue, Stored, TenantId, TypeId};
use jetlane_schemas::frame::Credit;
use jetlane_schemas::registry::{Order, PolicyName};
use jetlane_schemas::{Micros, Priority};
use std::hint::black_box;

struct Load {
    queue: Queue,
    flows: u64,
    next_id: u64,
    settled: u64,
}

const CAPACITY: u64 = 64;

impl Load {
    fn new(policy: PolicyName, flows: u64, waiting: u64) -> Self {
        let mut load = Self { queue: Queue::new(Order::of(policy)), flows, next_id: 0, settled: 0 };
        for flow in 0..flows {
            load.queue.on(Micros(0), Event::FlowOpened(FlowId(flow as u32)));
        }
        (0..waiting).for_each(|_| load.arrive());
        load.tell();
        load
    }

    fn arrive(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        let entry = Entry {
            id: EntryId(id),
            flow: FlowId((id % self.flows) as u32),
            priority: Priority::ALL[(id * 7 % 4) as usize],
            tenant: TenantId((id % self.flows / 4) as u32),
            task_type: TypeId((id % 17) as u32),
            fit: FitId::default(),
            first_arrival: Micros(id),
            expires: id.is_multiple_of(10).then_some(Micros(u64::MAX)),
            due: id.is_multiple_of(3).then_some(Micros(u64::MAX - id)),
            estimate: Micros(1_000 + id * 7_919 % 100_003),
            yields: 0,
            bytes: 200,
        };
        self.queue.on(Micros(id), Event::Arrived(entry));
    }

    fn tell(&mut self) {
        let (taken, settled) = (self.settled, self.settled);
        let credit = Credit {
            executor: "e".into(),
            capacity: CAPACITY as u32,
            taken,
            settled,
            fits: vec!["any".into()],
            ..Credit::default()
        };
        self.queue.on(Micros(self.next_id), Event::Credit(credit));
    }

    /// One task is dispatched and stored, and another arrives in its place.
    fn turn(&mut self) {
        let now = Micros(self.next_id);
        let entry = loop {
            match self.queue.next(now) {
                Some(Decision::Dispatch { entry, .. }) => break entry,
                Some(other) => {
                    black_box(other);
                }
                None => {
                    // The executor settles all it was sent: one announcement for 64 tasks.
                    self.settled += CAPACITY;
                    self.tell();
                }
            }
        };
        self.queue.on(now, Event::Settled(entry, Stored::New));
        self.queue.on(now, Event::Ended { entry, cost: Micros(1_500) });
        self.queue.on(now, Event::MessageTaken { flow: FlowId((self.next_id % self.flows) as u32), tasks: 1 });
        self.arrive();
    }
}

fn decide(c: &mut Criterion) {
    for policy in PolicyName::ALL {
        for (flows, waiting) in [(64, 1_000), (64, 10_000), (512, 10_000)] {
            let mut load = Load::new(policy, flows, waiting);
            c.bench_function(&format!("{policy:?}/{flows} flows/{waiting} waiting"), |b| b.iter(|| load.turn()));
        }
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
