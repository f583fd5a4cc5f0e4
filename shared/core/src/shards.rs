//! Which tenant of a queue stands where: shards of its own by assignment, shared ones by hash.
//!
//! Of 64 shards 8 are shared by hash, 48 are assigned to one tenant each on first sight and taken
//! back once they have been empty for a minute, 8 are kept free for tenants that flood a shared one.

use jetlane_schemas::{Micros, Shard, Tenant};
use std::collections::BTreeMap;

/// An assigned shard that stayed empty for so long is taken back.
pub const EMPTY_MAX: Micros = Micros(60_000_000);

/// The assignments of one queue.
#[derive(Debug, Default)]
pub struct Shards {
    owners: BTreeMap<Shard, Owner>,
    shards: BTreeMap<Tenant, Shard>,
}

#[derive(Debug)]
struct Owner {
    tenant: Tenant,
    occupied_at: Micros,
}

/// An assignment that was made or taken back: to be written to the registry, or deleted there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The tenant.
    pub tenant: Tenant,
    /// Its own shard.
    pub shard: Shard,
}

impl Shards {
    /// Takes over an assignment from the registry. One that contradicts another is refused: its
    /// tenant gets a shard when it is next seen.
    pub fn restore(&mut self, now: Micros, assignment: Assignment) {
        let Assignment { tenant, shard } = assignment;
        let is_assignable = Shard::ASSIGNED.contains(&shard.number());
        if is_assignable && !self.owners.contains_key(&shard) && !self.shards.contains_key(&tenant) {
            self.shards.insert(tenant.clone(), shard);
            self.owners.insert(shard, Owner { tenant, occupied_at: now });
        }
    }

    /// Takes note of a tenant's task; an assignment if this is its first and a shard is free.
    pub fn seen(&mut self, now: Micros, tenant: &Tenant) -> Option<Assignment> {
        if tenant.is_shared() {
            return None;
        }
        if let Some(shard) = self.shards.get(tenant) {
            if let Some(owner) = self.owners.get_mut(shard) {
                owner.occupied_at = owner.occupied_at.max(now);
            }
            return None;
        }
        if self.owners.len() == Shard::ASSIGNED.len() {
            return None;
        }
        let shard =
            Shard::ASSIGNED.filter_map(|n| Shard::new(n).ok()).find(|shard| !self.owners.contains_key(shard))?;
        let assignment = Assignment { tenant: tenant.clone(), shard };
        self.shards.insert(tenant.clone(), shard);
        self.owners.insert(shard, Owner { tenant: tenant.clone(), occupied_at: now });
        Some(assignment)
    }

    /// Takes note that tasks lie in a shard's subjects.
    pub fn occupied(&mut self, now: Micros, shard: Shard) {
        if let Some(owner) = self.owners.get_mut(&shard) {
            owner.occupied_at = owner.occupied_at.max(now);
        }
    }

    /// Takes back an assignment that has been empty for [`EMPTY_MAX`]; call until there is none.
    pub fn take_back(&mut self, now: Micros) -> Option<Assignment> {
        let is_empty = |owner: &Owner| now.0.saturating_sub(owner.occupied_at.0) >= EMPTY_MAX.0;
        let (&shard, _) = self.owners.iter().find(|(_, owner)| is_empty(owner))?;
        let Owner { tenant, .. } = self.owners.remove(&shard)?;
        self.shards.remove(&tenant);
        Some(Assignment { tenant, shard })
    }

    /// Where the tenant's tasks stand.
    pub fn shard(&self, tenant: &Tenant) -> Shard {
        self.shards.get(tenant).copied().unwrap_or_else(|| Shard::shared_by_hash(tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: usize) -> Tenant {
        Tenant::new(format!("tenant-{n}")).expect("valid")
    }

    #[test]
    fn each_tenant_gets_a_shard_of_its_own_until_none_is_free_and_the_rest_share() {
        let mut shards = Shards::default();
        let mut assigned = Vec::new();
        for n in 0..60 {
            assigned.extend(shards.seen(Micros(0), &tenant(n)));
        }
        let mut numbers: Vec<u8> = assigned.iter().map(|a| a.shard.number()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, Shard::ASSIGNED.collect::<Vec<_>>());
        assert!(shards.shard(&tenant(59)).number() < Shard::SHARED);
        assert_eq!(shards.seen(Micros(1), &tenant(0)), None, "an assigned tenant is assigned once");
    }

    #[test]
    fn the_shared_tenant_gets_no_shard_of_its_own() {
        let mut shards = Shards::default();
        assert_eq!(shards.seen(Micros(0), &Tenant::default()), None);
        assert_eq!(shards.shard(&Tenant::default()).number(), 0);
    }

    #[test]
    fn a_shard_empty_for_a_minute_is_taken_back_and_goes_to_the_next_tenant() {
        let mut shards = Shards::default();
        let first = shards.seen(Micros(0), &tenant(0)).expect("assigned");
        let second = shards.seen(Micros(0), &tenant(1)).expect("assigned");
        shards.occupied(Micros(5), second.shard);
        assert_eq!(shards.take_back(Micros(EMPTY_MAX.0 - 1)), None);
        assert_eq!(shards.take_back(EMPTY_MAX), Some(first.clone()));
        assert_eq!(shards.take_back(EMPTY_MAX), None, "the other held a task later");
        assert_eq!(shards.seen(EMPTY_MAX, &tenant(2)).map(|a| a.shard), Some(first.shard));
    }

    #[test]
    fn a_registry_that_contradicts_itself_gives_each_shard_one_owner() {
        let mut shards = Shards::default();
        let shard = Shard::new(9).expect("valid");
        shards.restore(Micros(0), Assignment { tenant: tenant(0), shard });
        shards.restore(Micros(0), Assignment { tenant: tenant(1), shard });
        shards.restore(Micros(0), Assignment { tenant: tenant(2), shard: Shard::new(3).expect("valid") });
        assert_eq!(shards.shard(&tenant(0)), shard);
        assert!(shards.shard(&tenant(1)).number() < Shard::SHARED);
        assert!(shards.seen(Micros(0), &tenant(2)).is_some());
    }
}
