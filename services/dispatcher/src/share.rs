//! The bounds of the process, divided between the queues that it leads.

use jetlane_core::window::Share;
use jetlane_schemas::QueueName;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What each queue of this process holds or has asked for.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<BTreeMap<QueueName, Share>>);

impl Shares {
    /// Notes what a queue holds, and tells what the others leave to it.
    pub(crate) fn settle(&self, queue: &QueueName, held: Share) -> Share {
        let mut all = self.0.lock().expect("nobody panics while holding the shares");
        all.insert(queue.clone(), held);
        let others = all.iter().filter(|(other, _)| *other != queue);
        let (tasks, bytes) =
            others.fold((0_u32, 0_u64), |(tasks, bytes), (_, share)| (tasks + share.tasks, bytes + share.bytes));
        let process = Share::default();
        Share { tasks: process.tasks.saturating_sub(tasks), bytes: process.bytes.saturating_sub(bytes) }
    }

    /// A queue is led no more.
    pub(crate) fn leave(&self, queue: &QueueName) {
        self.0.lock().expect("nobody panics while holding the shares").remove(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_queue_holds_is_not_anothers_to_fill() {
        let shares = Shares::default();
        let (a, b) = (QueueName::new("a").expect("valid"), QueueName::new("b").expect("valid"));
        let whole = Share::default();
        assert_eq!(shares.settle(&a, Share { tasks: 100, bytes: 1_000 }), whole);
        let left = shares.settle(&b, Share { tasks: 0, bytes: 0 });
        assert_eq!(left, Share { tasks: whole.tasks - 100, bytes: whole.bytes - 1_000 });
        shares.leave(&a);
        assert_eq!(shares.settle(&b, left), whole);
    }
}
