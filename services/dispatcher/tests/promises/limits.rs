//! Many queues and types.

use crate::stage::Stage;
use futures::{StreamExt as _, TryStreamExt as _};
use jetlane_dispatcher::Config;
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use jetlane_schemas::{QueueEntry, QueueName, TaskType, TypeEntry};
use std::time::Duration;

const QUEUES: usize = 300;
const TYPES: usize = 2_000;
/// How many entries are written at once.
const AT_ONCE: usize = 128;
/// A dispatcher leads all queues within this time. A debug build on two busy cores takes half a minute.
const LED_WITHIN: Duration = Duration::from_secs(120);
/// A task of a queue that is led is dispatched within this time, while the dispatcher still takes over others.
const DISPATCHED_WITHIN: Duration = Duration::from_secs(10);

fn queue(number: usize) -> QueueName {
    QueueName::new(format!("q{number}")).expect("valid")
}

fn task_type(number: usize) -> TaskType {
    TaskType::new(format!("kind.t{number}")).expect("valid")
}

async fn announce(stage: &Stage) {
    let registry = stage.bus.bucket(BUCKET_REGISTRY).await.expect("a registry");
    let queues = futures::stream::iter(0..QUEUES)
        .map(async |n| registry.put(&subject::registry_queue(&queue(n)), &QueueEntry::default()).await);
    queues.buffer_unordered(AT_ONCE).try_collect::<()>().await.expect("announced");
    let types = futures::stream::iter(0..TYPES).map(async |n| {
        let entry = TypeEntry::new(queue(n * QUEUES / TYPES));
        registry.put(&subject::registry_type(&task_type(n)), &entry).await
    });
    types.buffer_unordered(AT_ONCE).try_collect::<()>().await.expect("announced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_of_the_first_and_of_the_last_of_many_queues_and_types_is_dispatched() {
    let mut stage = Stage::without_dispatcher(&Config::default()).await;
    announce(&stage).await;
    stage.start(Config::default()).await;
    let ends = [(0, 0), (TYPES - 1, QUEUES - 1)];
    // What waits when the dispatcher begins is served once it leads, what comes then at once.
    for within in [LED_WITHIN, DISPATCHED_WITHIN] {
        for (of_type, of_queue) in ends {
            let (task_type, queue) = (task_type(of_type), queue(of_queue));
            let id = format!("s{}", stage.publish(task_type.as_str(), &[], "{}").await);
            let mut taker = stage.taker(queue.as_str()).await;
            let (task, delivery) = taker.next(1, within).await.expect("it is dispatched in time");
            assert_eq!((task.id.as_str(), &task.task_type), (id.as_str(), &task_type));
            taker.settle(delivery).await;
        }
    }
}
