//! How much memory a waiting task takes, measured from outside: alone in its process, so that nothing
//! else grows meanwhile.

use jetlane_core::{Entry, EntryId, Event, FitId, FlowId, Queue, TenantId, TypeId};
use jetlane_schemas::registry::{Order, PolicyName};
use jetlane_schemas::{Micros, Priority};

/// The bound, payload left out.
const BYTES_MAX: usize = 256;
const TASKS: u64 = 200_000;

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells it");
    let kilobytes: usize = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kilobytes * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn a_waiting_task_takes_at_most_256_bytes_under_any_policy() {
    for policy in PolicyName::ALL {
        let mut queue = Queue::new(Order::of(policy));
        let before = resident();
        for id in 0..TASKS {
            let entry = Entry {
                id: EntryId(id),
                flow: FlowId((id % 64) as u32),
                priority: Priority::ALL[(id % 4) as usize],
                tenant: TenantId((id % 16) as u32),
                task_type: TypeId((id % 17) as u32),
                fit: FitId::default(),
                first_arrival: Micros(id),
                expires: None,
                due: Some(Micros(id * 7_919 % 100_003)),
                estimate: Micros(id * 104_729 % 1_000_003),
                yields: 0,
                bytes: 200,
            };
            queue.on(Micros(id), Event::Arrived(entry));
        }
        let each = resident().saturating_sub(before) / TASKS as usize;
        println!("{policy}: {each} bytes a waiting task");
        assert!(each <= BYTES_MAX, "{policy}: {each} bytes");
        assert_eq!(queue.waiting(), TASKS as usize);
        // Kept, so that the next one cannot grow into what this one leaves.
        std::mem::forget(queue);
    }
}
