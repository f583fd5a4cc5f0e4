//! Which tenant of a queue stands where: shards of its own by assignment, shared ones by hash.
//!
//! Of 64 shards 8 are shared by hash, 48 are assigned to one tenant each on first sight and taken
//! back once they have been empty for a minute, 8 are kept free for tenants that flood a shared one: the
//! flooded shard leaves the hash and stays with whoever flooded it, a free one takes its place, and once
//! the flooded one is empty it is free in turn. The others of the shard are found by their next task.

use jetlane_schemas::{Micros, Shard, SharedEntry, Tenant};
use std::collections::BTreeMap;

/// An assigned shard that stayed empty for so long is taken back.
pub const EMPTY_MAX: Micros = Micros(60_000_000);
/// A shard that nobody owns and that had no task for so long can take a flooded one's place.
const FREE_AFTER: Micros = Micros(2_000_000);
/// The others are led round the floods of one tenant so often at most.
const RELIEF_EVERY: Micros = Micros(60_000_000);
/// More tasks than this of one tenant, waiting in a shared shard, are a flood.
pub const FLOOD_TASKS: u64 = 256;
/// So many of one tenant must have been read before its share of what lies behind them is believed.
pub const FLOOD_SAMPLE_MIN: u32 = 32;

/// The assignments of one queue.
#[derive(Debug)]
pub struct Shards {
    owners: BTreeMap<Shard, Tenant>,
    shards: BTreeMap<Tenant, Shard>,
    shared: SharedEntry,
    /// When each shard was last seen with tasks.
    occupied_at: [Micros; Shard::COUNT as usize],
    /// Who flooded a shard of late: one whose submitters do not follow must not drive the others through
    /// all free shards. Forgotten after [`RELIEF_EVERY`].
    relieved_of: BTreeMap<Tenant, Micros>,
}

impl Default for Shards {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            shards: BTreeMap::new(),
            shared: SharedEntry::default(),
            occupied_at: [Micros(0); Shard::COUNT as usize],
            relieved_of: BTreeMap::new(),
        }
    }
}

/// An assignment that was made or taken back: to be written to the registry, or deleted there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The tenant.
    pub tenant: Tenant,
    /// Its own shard.
    pub shard: Shard,
}

/// What waits in one flow of a shared shard, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// Tasks of the tenant that has most, of those that were read.
    pub of_tenant: u32,
    /// All tasks that were read.
    pub read: u32,
    /// All that wait, read or not.
    pub waiting: u64,
}

impl Crowd {
    /// Whether one tenant floods the shard: more than half is its, and that is more than [`FLOOD_TASKS`].
    /// Windows are small where flows are many, so what was read stands for what was not.
    pub fn is_flood(&self) -> bool {
        let (of_tenant, read) = (u64::from(self.of_tenant), u64::from(self.read));
        let waiting = self.waiting.max(read);
        self.of_tenant >= FLOOD_SAMPLE_MIN
            && of_tenant * 2 > read
            && waiting.saturating_mul(of_tenant) > FLOOD_TASKS.saturating_mul(read)
    }
}

/// A shared shard that a tenant has flooded: what is to be written to the registry, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relief {
    /// The tenant keeps the shard; absent where it has another one by now.
    pub keeps: Option<Assignment>,
    /// What tenants without a shard of their own share from now on.
    pub shared: SharedEntry,
    /// The shard that took the flooded one's place.
    pub instead: Shard,
}

impl Shards {
    /// Takes over an assignment from the registry. One that contradicts another is refused: its
    /// tenant gets a shard when it is next seen.
    pub fn restore(&mut self, now: Micros, assignment: Assignment) {
        let Assignment { tenant, shard } = assignment;
        if !self.owners.contains_key(&shard) && !self.shards.contains_key(&tenant) {
            self.own(now, tenant, shard);
        }
    }

    /// Takes over from the registry which shards are shared. What is no good is passed over.
    pub fn restore_shared(&mut self, shared: SharedEntry) {
        if shared.check().is_ok() {
            self.shared = shared;
        }
    }

    /// The shards that are shared by hash.
    pub fn shared(&self) -> SharedEntry {
        self.shared
    }

    /// The shards that belong to one tenant each.
    pub fn owned(&self) -> impl Iterator<Item = Shard> + '_ {
        self.owners.keys().copied()
    }

    /// Takes note of a tenant's task; an assignment if this is its first and a shard is free.
    pub fn seen(&mut self, now: Micros, tenant: &Tenant) -> Option<Assignment> {
        if tenant.is_shared() {
            return None;
        }
        if let Some(&shard) = self.shards.get(tenant) {
            self.occupied(now, shard);
            return None;
        }
        let assignable = Shard::ASSIGNED.filter_map(|n| Shard::new(n).ok());
        // The range holds at most 48: looked through only for tenants without a shard.
        let shard = assignable.into_iter().find(|shard| !self.owners.contains_key(shard))?;
        self.own(now, tenant.clone(), shard);
        Some(Assignment { tenant: tenant.clone(), shard })
    }

    /// Takes note that tasks lie in a shard's subjects.
    pub fn occupied(&mut self, now: Micros, shard: Shard) {
        let at = &mut self.occupied_at[usize::from(shard.number())];
        *at = (*at).max(now);
    }

    /// Takes back an assignment that has been empty for [`EMPTY_MAX`]; call until there is none.
    pub fn take_back(&mut self, now: Micros) -> Option<Assignment> {
        let (&shard, _) = self.owners.iter().find(|(shard, _)| self.empty_for(now, **shard) >= EMPTY_MAX.0)?;
        let tenant = self.owners.remove(&shard)?;
        self.shards.remove(&tenant);
        Some(Assignment { tenant, shard })
    }

    /// A tenant floods a shard. `None` where the shard is not shared, no other is free, or the tenant has
    /// flooded another a moment ago.
    pub fn flooded(&mut self, now: Micros, shard: Shard, tenant: &Tenant) -> Option<Relief> {
        self.occupied(now, shard);
        let place = self.shared.shards.iter().position(|shared| *shared == shard)?;
        self.relieved_of.retain(|_, at| now.0.saturating_sub(at.0) < RELIEF_EVERY.0);
        if self.relieved_of.contains_key(tenant) {
            return None;
        }
        let instead = self.free(now)?;
        self.relieved_of.insert(tenant.clone(), now);
        self.shared.shards[place] = instead;
        let keeps = (!self.shards.contains_key(tenant) && !self.owners.contains_key(&shard)).then(|| {
            self.own(now, tenant.clone(), shard);
            Assignment { tenant: tenant.clone(), shard }
        });
        Some(Relief { keeps, shared: self.shared, instead })
    }

    /// Where the tenant's tasks stand, if `by_hash` is its [`Shard::shared_by_hash`].
    pub fn place(&self, tenant: &Tenant, by_hash: Shard) -> Shard {
        let shared = || self.shared.shards.get(usize::from(by_hash.number())).copied().unwrap_or(by_hash);
        self.shards.get(tenant).copied().unwrap_or_else(shared)
    }

    fn own(&mut self, now: Micros, tenant: Tenant, shard: Shard) {
        self.shards.insert(tenant.clone(), shard);
        self.owners.insert(shard, tenant);
        self.occupied(now, shard);
    }

    fn empty_for(&self, now: Micros, shard: Shard) -> u64 {
        now.0.saturating_sub(self.occupied_at[usize::from(shard.number())].0)
    }

    /// The free shard that has been empty for longest.
    fn free(&self, now: Micros) -> Option<Shard> {
        let candidates = (0..Shard::SHARED).chain(Shard::FREE).filter_map(|n| Shard::new(n).ok());
        candidates
            .filter(|shard| !self.shared.shards.contains(shard) && !self.owners.contains_key(shard))
            .filter(|shard| self.empty_for(now, *shard) >= FREE_AFTER.0)
            .min_by_key(|shard| (self.occupied_at[usize::from(shard.number())], shard.number()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn tenant(n: usize) -> Tenant {
        Tenant::new(format!("tenant-{n}")).expect("valid")
    }

    fn place(shards: &Shards, tenant: &Tenant) -> Shard {
        shards.place(tenant, Shard::shared_by_hash(tenant))
    }

    /// Shards of which all that can be assigned are, at this time.
    fn full(now: Micros) -> Shards {
        let mut shards = Shards::default();
        (0..Shard::ASSIGNED.len()).for_each(|n| {
            shards.seen(now, &tenant(n)).expect("one is free");
        });
        shards
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
        assert!(place(&shards, &tenant(59)).number() < Shard::SHARED);
        assert_eq!(shards.seen(Micros(1), &tenant(0)), None, "an assigned tenant is assigned once");
    }

    #[test]
    fn the_shared_tenant_gets_no_shard_of_its_own() {
        let mut shards = Shards::default();
        assert_eq!(shards.seen(Micros(0), &Tenant::default()), None);
        assert_eq!(place(&shards, &Tenant::default()).number(), 0);
    }

    #[test]
    fn a_shard_empty_for_a_minute_is_taken_back_and_goes_to_the_next_tenant() {
        let mut shards = Shards::default();
        let first = shards.seen(Micros(0), &tenant(0)).expect("assigned");
        let second = shards.seen(Micros(0), &tenant(1)).expect("assigned");
        shards.occupied(Micros(5), second.shard);
        assert_eq!(shards.take_back(Micros(EMPTY_MAX.0 - 1)), None);
        assert_eq!(shards.take_back(EMPTY_MAX), Some(first.clone()));
        assert_eq!(shards.take_back(EMPTY_MAX), None);
        assert_eq!(shards.seen(EMPTY_MAX, &tenant(2)).map(|a| a.shard), Some(first.shard));
    }

    #[test]
    fn a_registry_that_contradicts_itself_gives_each_shard_one_owner() {
        let mut shards = Shards::default();
        let shard = Shard::new(9).expect("valid");
        shards.restore(Micros(0), Assignment { tenant: tenant(0), shard });
        shards.restore(Micros(0), Assignment { tenant: tenant(1), shard });
        assert_eq!(place(&shards, &tenant(0)), shard);
        assert!(place(&shards, &tenant(1)).number() < Shard::SHARED);
        assert!(shards.seen(Micros(0), &tenant(1)).is_some_and(|other| other.shard != shard));
        let twice = SharedEntry { shards: [shard; 8] };
        shards.restore_shared(twice);
        assert_eq!(shards.shared(), SharedEntry::default());
    }

    #[test]
    fn a_flood_is_most_of_what_waits_and_more_than_a_window_of_few() {
        let is_flood = |of_tenant, read, waiting| Crowd { of_tenant, read, waiting }.is_flood();
        assert!(is_flood(300, 500, 500));
        assert!(!is_flood(256, 256, 256), "not enough");
        assert!(!is_flood(400, 800, 800), "half is not most");
        assert!(is_flood(40, 64, 100_000), "what was read stands for what was not");
        assert!(!is_flood(31, 40, 100_000), "too few to tell");
        assert!(!is_flood(0, 0, 100_000));
    }

    #[test]
    fn a_tenant_that_floods_a_shared_shard_keeps_it_and_a_free_one_takes_its_place() {
        let now = Micros(10_000_000);
        let mut shards = full(now);
        let (flooder, shard) = (tenant(100), Shard::shared_by_hash(&tenant(100)));
        let other = (101..).map(tenant).find(|t| Shard::shared_by_hash(t) == shard).expect("one of eight");
        let relief = shards.flooded(now, shard, &flooder).expect("eight are free");
        assert_eq!(relief.keeps, Some(Assignment { tenant: flooder.clone(), shard }));
        assert!(Shard::FREE.contains(&relief.instead.number()));
        assert_eq!((place(&shards, &flooder), place(&shards, &other)), (shard, relief.instead));
        assert_eq!(shards.flooded(now, shard, &flooder), None, "it is shared no more");
        // The flood is over: its shard is free, and the tenant stands where the hash says.
        let later = Micros(now.0 + EMPTY_MAX.0);
        (0..48).for_each(|n| drop(shards.seen(later, &tenant(n))));
        assert_eq!(shards.take_back(later), Some(Assignment { tenant: flooder.clone(), shard }));
        assert_eq!(place(&shards, &flooder), relief.instead);
        assert_eq!(shards.take_back(later), None);
    }

    #[test]
    fn one_that_has_a_shard_of_its_own_by_now_leaves_its_flood_behind() {
        let now = Micros(10_000_000);
        let mut shards = Shards::default();
        let own = shards.seen(now, &tenant(0)).expect("assigned").shard;
        let flooded = Shard::shared_by_hash(&tenant(0));
        let relief = shards.flooded(now, flooded, &tenant(0)).expect("eight are free");
        assert_eq!((relief.keeps, place(&shards, &tenant(0))), (None, own));
        // What it left behind must be gone before the shard is anybody's again.
        let others = shards.shared().shards.into_iter().filter(|shard| *shard != relief.instead);
        for (n, shared) in others.enumerate() {
            shards.seen(now, &tenant(n + 1)).expect("assigned");
            shards.flooded(Micros(now.0 + 1_000_000), shared, &tenant(n + 1)).expect("seven are free");
        }
        assert_eq!(shards.flooded(Micros(now.0 + 1_500_000), relief.instead, &tenant(9)), None, "none is empty");
        shards.occupied(Micros(now.0 + 2_500_000), flooded);
        let next = shards.flooded(Micros(now.0 + 3_500_000), relief.instead, &tenant(9)).expect("seven are empty");
        assert_ne!(next.instead, flooded, "it still had tasks");
    }

    #[test]
    fn one_whose_submitters_do_not_follow_does_not_drive_the_others_through_all_shards() {
        let now = Micros(10_000_000);
        let mut shards = full(now);
        let first = shards.flooded(now, Shard::shared_by_hash(&tenant(100)), &tenant(100)).expect("eight are free");
        let at = |later: u64| Micros(now.0 + later);
        assert_eq!(shards.flooded(at(RELIEF_EVERY.0 - 1), first.instead, &tenant(100)), None);
        assert!(shards.flooded(at(RELIEF_EVERY.0), first.instead, &tenant(100)).is_some());
    }

    #[test]
    fn the_tenantless_can_be_relieved_and_can_flood() {
        let now = Micros(10_000_000);
        let mut shards = Shards::default();
        let first = Shard::default();
        let relief = shards.flooded(now, first, &Tenant::default()).expect("eight are free");
        assert_eq!(relief.keeps.map(|kept| kept.shard), Some(first));
        assert_eq!(place(&shards, &Tenant::default()), first);
        let relief = shards.flooded(now, relief.instead, &tenant(7)).expect("seven are free");
        let beside = (0..).map(tenant).find(|t| Shard::shared_by_hash(t) == first).expect("one of eight");
        assert_eq!(place(&shards, &beside), relief.instead);
    }

    proptest! {
        #[test]
        fn nobody_moves_but_those_who_shared_the_flooded_shard(
            floods in proptest::collection::vec((0..1_000usize, 0..4_000_000u64), 0..40),
        ) {
            let mut now = Micros(10_000_000);
            let mut shards = full(now);
            let tenants: Vec<(Tenant, Shard)> =
                (0..1_000).map(tenant).map(|tenant| (tenant.clone(), Shard::shared_by_hash(&tenant))).collect();
            for (n, later) in floods {
                now = Micros(now.0 + later);
                tenants[..48].iter().for_each(|(tenant, _)| drop(shards.seen(now, tenant)));
                while shards.take_back(now).is_some() {}
                let places = |shards: &Shards| tenants.iter().map(|(t, hash)| shards.place(t, *hash)).collect::<Vec<_>>();
                let before = places(&shards);
                let relief = shards.flooded(now, before[n], &tenants[n].0);
                prop_assert!(shards.shared().check().is_ok());
                let after = places(&shards);
                for (t, (was, is)) in before.iter().zip(&after).enumerate() {
                    match &relief {
                        Some(relief) if *was == before[n] && t != n => prop_assert_eq!(*is, relief.instead),
                        _ => prop_assert_eq!(is, was),
                    }
                }
                prop_assert!(after[..48].iter().all(|shard| Shard::ASSIGNED.contains(&shard.number())));
                let of_assigned: BTreeSet<&Shard> = after[..48].iter().collect();
                prop_assert_eq!(of_assigned.len(), 48, "two tenants share an assigned shard");
            }
        }
    }
}
