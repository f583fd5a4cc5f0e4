//! Where tenants stand in line: shards assigned, taken back, and relieved of those who flood them.

use super::Leader;
use super::flows::Flows;
use super::output::{Beside, Carried};
use crate::registry::Registry;
use jetlane_bus::{Error, clock};
use jetlane_core::FlowId;
use jetlane_core::shards::{Crowd, FLOOD_SAMPLE_MIN, Relief};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use jetlane_schemas::{Micros, Shard, ShardEntry, SharedEntry, Tenant};
use std::collections::HashMap;

/// What the registry knows of the shards that are shared by hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Told {
    /// As much as the leader does.
    #[default]
    All,
    /// It is being written.
    OnTheWay,
    /// Less: it could not be written.
    Less,
}

impl Leader {
    /// Takes up where tenants stand, from the leader before. It is the only one that writes it, so what comes
    /// later from the registry is old.
    pub(super) fn restore_shards(&mut self, registry: &Registry) {
        let now = clock::now();
        self.shards.restore_shared(registry.shared(&self.queue));
        for assignment in registry.shards(&self.queue) {
            self.shards.restore(now, assignment);
        }
    }

    /// A tenant was seen: the first time it gets a shard of its own, while there is one.
    pub(super) fn note_tenant(&mut self, now: Micros, tenant: &Tenant) {
        let Some(assignment) = self.shards.seen(now, tenant) else { return };
        // Listened to before the first task comes there.
        Flows::of_shard(&self.queue, assignment.shard).for_each(|flow| self.flows.open_when_used(flow));
        self.tell_shard(ShardEntry { tenant: assignment.tenant, shard: assignment.shard });
    }

    /// Takes back the shards of tenants that left them empty.
    pub(super) fn take_back_shards(&mut self) {
        while let Some(assignment) = self.shards.take_back(clock::now()) {
            let key = subject::registry_shard(&self.queue, &assignment.tenant);
            self.write("take back a shard", |bus| async move { bus.bucket(BUCKET_REGISTRY).await?.delete(&key).await });
        }
    }

    /// Looks for tenants that flood a shard which others share, and leads the others round it.
    pub(super) fn look_for_floods(&mut self) {
        if self.held.len() >= FLOOD_SAMPLE_MIN as usize {
            let now = clock::now();
            for (shard, tenant) in self.floods() {
                self.relieve(now, shard, &tenant);
            }
        }
        if self.shared_told == Told::Less {
            self.tell_shared(None);
        }
    }

    /// The shared shards in whose window one tenant has most, and too much.
    fn floods(&mut self) -> Vec<(Shard, Tenant)> {
        let shared: HashMap<FlowId, Shard> = self.flows.of_shards(&self.shards.shared().shards).collect();
        let mut crowds: HashMap<FlowId, (u32, HashMap<&Tenant, u32>)> = HashMap::new();
        for held in self.held.values().filter(|held| shared.contains_key(&held.flow)) {
            let (read, of) = crowds.entry(held.flow).or_default();
            *read += 1;
            *of.entry(&held.task.tenant).or_default() += 1;
        }
        let found = self.world.found.borrow();
        let flood = |(flow, (read, of)): (FlowId, (u32, HashMap<&Tenant, u32>))| {
            // Of two with as many the one by name: the same everywhere.
            let (tenant, of_tenant) = of.into_iter().max_by_key(|(tenant, tasks)| (*tasks, *tenant))?;
            let waiting = found.get(self.flows.flow(flow)).copied().unwrap_or(0);
            let is_flood = Crowd { of_tenant, read, waiting }.is_flood();
            is_flood.then(|| (shared[&flow], tenant.clone()))
        };
        crowds.into_iter().filter_map(flood).collect()
    }

    fn relieve(&mut self, now: Micros, shard: Shard, tenant: &Tenant) {
        let Some(Relief { keeps, instead, .. }) = self.shards.flooded(now, shard, tenant) else { return };
        tracing::info!(queue = %self.queue, %shard, %instead, tenant = tenant.as_str(), "A tenant floods a shared shard; those who share it stand elsewhere from now on.");
        let kept = keeps.map(|kept| ShardEntry { tenant: kept.tenant, shard: kept.shard });
        self.tell_shared(kept);
        Flows::of_shard(&self.queue, instead).for_each(|flow| self.flows.open_when_used(flow));
    }

    fn tell_shard(&mut self, entry: ShardEntry) {
        let key = subject::registry_shard(&self.queue, &entry.tenant);
        self.write("assign a shard", |bus| async move { bus.bucket(BUCKET_REGISTRY).await?.put(&key, &entry).await });
    }

    /// Writes which shards are shared. Whoever keeps a flooded one is told first: it is not to flood the
    /// next one meanwhile.
    fn tell_shared(&mut self, kept: Option<ShardEntry>) {
        if self.shared_told == Told::OnTheWay {
            // One at a time, or an earlier one might be stored last; its outcome brings the next.
            return kept.into_iter().for_each(|kept| self.tell_shard(kept));
        }
        self.shared_told = Told::OnTheWay;
        let (bus, shared) = (self.world.bus.clone(), self.shards.shared());
        let key = subject::registry_shared(&self.queue);
        let kept = kept.map(|kept| (subject::registry_shard(&self.queue, &kept.tenant), kept));
        self.works.push(Box::pin(async move {
            let written = async {
                let registry = bus.bucket(BUCKET_REGISTRY).await?;
                if let Some((key, kept)) = kept {
                    registry.put(&key, &kept).await?;
                }
                registry.put(&key, &shared).await
            };
            Carried::Beside(Beside::SharedTold(shared, written.await))
        }));
    }

    pub(super) fn shared_told(&mut self, shared: SharedEntry, written: Result<(), Error>) {
        self.shared_told = Told::All;
        match written {
            Ok(()) if shared == self.shards.shared() => {}
            Ok(()) => self.tell_shared(None),
            Err(error) => {
                tracing::warn!(queue = %self.queue, %error, "Could not tell who shares which shard; trying again.");
                self.shared_told = Told::Less;
            }
        }
    }
}
