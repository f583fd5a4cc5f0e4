//! Taking over a queue from whoever led it before.

use super::Leader;
use super::clients::{self, Clients};
use super::estimates::Learned;
use super::flows::Flows;
use super::needs::Fits;
use super::questions::Asked;
use super::runs::Runs;
use super::tenants::Told;
use super::upkeep::{self, Upkeep};
use crate::World;
use crate::delivered;
use crate::error::Error;
use futures::stream::FuturesUnordered;
use jetlane_bus::clock;
use jetlane_core::duplicates::Duplicates;
use jetlane_core::numbers::Numbers;
use jetlane_core::shards::Shards;
use jetlane_core::{Event, Queue};
use jetlane_schemas::subject::{self, STREAM_TASKS, STREAM_TIME};
use jetlane_schemas::{Flow, Headers, QueueEntry, QueueName};
use std::collections::HashMap;

impl Leader {
    /// Prepares the lanes, ends the old leader's consumers and opens one's own. From then on everything
    /// up to where the old leader had read is suspect.
    ///
    /// # Errors
    /// [`Error::TakeOver`].
    pub(crate) async fn take_over(world: &World, queue: &QueueName, epoch: u64) -> Result<Self, Error> {
        let failed = |source| Error::TakeOver { queue: queue.clone(), source };
        let bus = &world.bus;
        // Listening begins before anybody is asked.
        let credits = bus.subscribe(&subject::credit(queue)).await.map_err(failed)?;
        let questions = bus.subscribe(&subject::ask(queue)).await.map_err(failed)?;
        let registry = world.registry.borrow().clone();
        let entry = registry.queue(queue);
        let fits = Fits::new(&entry);
        let lanes: Vec<_> = fits.declared.iter().flat_map(|fit| upkeep::lanes_of(queue, &fit.name)).collect();
        futures::future::try_join_all(lanes.iter().map(|lane| bus.ensure_lane(lane))).await.map_err(failed)?;
        let mine = |flow: &Flow| match flow {
            Flow::Task(of, ..) | Flow::Due(of, ..) => of == queue,
            Flow::Raw(task_type) => registry.task_type(task_type).is_some_and(|known| known.entry.queue == *queue),
        };
        let (tasks, due) =
            futures::try_join!(bus.pause_old(STREAM_TASKS, epoch, mine), bus.pause_old(STREAM_TIME, epoch, mine))
                .map_err(failed)?;
        let old = [tasks, due].concat();
        let delivered = delivered::note(bus, queue, &old).await.map_err(failed)?;
        bus.delete_old(&old).await.map_err(failed)?;
        fail::fail_point!("dispatcher::between-delete-and-create", |_| std::process::abort());
        let counted = upkeep::count(bus, lanes).await.map_err(failed)?;
        let mut leader = Self {
            world: world.clone(),
            queue: queue.clone(),
            core: Queue::new(entry.order),
            held: HashMap::new(),
            entries: 0,
            runs: Duplicates::default(),
            sources: super::Sources::default(),
            flows: Flows::new(bus.clone(), world.door.clone(), epoch),
            works: FuturesUnordered::new(),
            bundles: super::bundles::Bundles::default(),
            under_way: super::bundles::UnderWay::default(),
            leaving: Vec::new(),
            on_the_way: 0,
            acks: Vec::new(),
            credits,
            questions,
            asked: Asked::default(),
            dispatched: Runs::default(),
            learned: Learned::default(),
            tenants: Numbers::default(),
            types: super::intake::Types::default(),
            endings: super::answers::Endings::default(),
            suspects: super::suspects::Suspects::default(),
            fits,
            clients: Clients::default(),
            cancelled: world.cancelled.news(),
            shards: Shards::default(),
            shared_told: Told::default(),
            entry: QueueEntry { order: entry.order, ..QueueEntry::default() },
            upkeep: Upkeep::new(),
        };
        leader.take_fits(&entry);
        leader.restore_shards(&registry);
        leader.take_counted(&counted);
        for (flow, delivered) in &delivered {
            leader.flows.suspect(flow, *delivered);
            leader.flows.open(flow);
        }
        leader.open_flows();
        leader.take_announced();
        leader.core.on(clock::now(), Event::ShareChanged(world.shares.settle(queue, leader.core.committed())));
        bus.send(subject::credit_wanted(queue), Headers::new(), clients::nothing()).await.map_err(failed)?;
        Ok(leader)
    }
}
