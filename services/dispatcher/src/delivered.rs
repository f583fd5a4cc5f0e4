//! What earlier leaders were given of each flow, as far as this process has read it: it outlives a try to take a queue
//! over that fails after it has deleted a consumer.

use jetlane_bus::flows::OldConsumer;
use jetlane_schemas::{Flow, QueueName};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The last sequence that was delivered of each flow, by queue. One entry a flow that ever had a consumer here.
#[derive(Debug, Default)]
pub(crate) struct Delivered(Mutex<BTreeMap<QueueName, BTreeMap<Flow, u64>>>);

impl Delivered {
    /// Notes what consumers were given; returns all that is known of the queue.
    pub(crate) fn note<'a>(
        &self,
        queue: &QueueName,
        consumers: impl Iterator<Item = &'a OldConsumer>,
    ) -> BTreeMap<Flow, u64> {
        let mut all = self.0.lock().expect("nobody panics while holding what was delivered");
        let of_queue = all.entry(queue.clone()).or_default();
        for old in consumers {
            let until = of_queue.entry(old.flow.clone()).or_default();
            *until = old.delivered.max(*until);
        }
        of_queue.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_take_over_read_is_known_to_the_next() {
        let queue = QueueName::default_queue();
        let flow = Flow::Raw("a.b".parse().expect("a type"));
        let old = |delivered| OldConsumer { flow: flow.clone(), name: "old".into(), delivered };
        let delivered = Delivered::default();
        assert_eq!(delivered.note(&queue, [old(7)].iter())[&flow], 7);
        assert_eq!(delivered.note(&queue, [].iter())[&flow], 7, "its consumer is deleted");
        assert_eq!(delivered.note(&queue, [old(3)].iter())[&flow], 7);
        assert_eq!(delivered.note(&queue, [old(9)].iter())[&flow], 9);
    }
}
