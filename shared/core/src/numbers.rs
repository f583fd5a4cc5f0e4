//! Numbers for tenants, by first sight: as the policies know them.
//!
//! No two names share a number, so that nobody can make another's tasks count as their own. A number is never given
//! twice while a leader leads: what was learned under it is not taken for another's.

use crate::entry::TenantId;
use jetlane_schemas::Tenant;
use std::collections::{BTreeMap, VecDeque};

/// Names without tasks that keep their numbers, so that a tenant which comes and goes keeps its account.
pub const IDLE_MAX: usize = 16_384;
/// The number of tasks without a tenant, and of tenants that are asked about and have none.
const NONE: TenantId = TenantId(0);

/// The numbers of tenants. Those with tasks keep theirs; of the others the last [`IDLE_MAX`] do.
#[derive(Debug, Default)]
pub struct Numbers {
    names: BTreeMap<Tenant, Known>,
    /// Names whose last task left, in that order; some have others again.
    idle: VecDeque<Tenant>,
    last: u32,
}

#[derive(Debug)]
struct Known {
    number: u32,
    tasks: u32,
    /// How often it stands in the list of idle names.
    idle: u32,
}

impl Numbers {
    /// A task of this name came: the name's number.
    pub fn enter(&mut self, name: &Tenant) -> TenantId {
        if name.is_shared() {
            return NONE;
        }
        if let Some(known) = self.names.get_mut(name) {
            known.tasks += 1;
            return TenantId(known.number);
        }
        // Four billion first sights in one lead come round to the first again.
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.names.insert(name.clone(), Known { number: self.last, tasks: 1, idle: 0 });
        TenantId(self.last)
    }

    /// A task of this name left.
    pub fn leave(&mut self, name: &Tenant) {
        let Some(known) = self.names.get_mut(name) else { return };
        known.tasks = known.tasks.saturating_sub(1);
        if known.tasks > 0 {
            return;
        }
        known.idle += 1;
        self.idle.push_back(name.clone());
        while self.idle.len() > IDLE_MAX
            && let Some(oldest) = self.idle.pop_front()
        {
            self.forget_if_idle(&oldest);
        }
    }

    fn forget_if_idle(&mut self, name: &Tenant) {
        let Some(known) = self.names.get_mut(name) else { return };
        known.idle -= 1;
        if known.idle == 0 && known.tasks == 0 {
            self.names.remove(name);
        }
    }

    /// The number of a name that is asked about.
    pub fn of(&self, name: &Tenant) -> TenantId {
        self.names.get(name).map_or(NONE, |known| TenantId(known.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).expect("valid")
    }

    #[test]
    fn no_two_names_share_a_number_not_even_those_with_one_hash() {
        let mut numbers = Numbers::default();
        // Pairs of one hash in FNV-1a with 32 bits.
        let all: std::collections::BTreeSet<TenantId> =
            ["costarring", "liquid", "declinate", "macallums", "altarage", "zinke"]
                .map(|name| numbers.enter(&tenant(name)))
                .into();
        assert_eq!(all.len(), 6);
        assert_eq!(numbers.enter(&tenant("liquid")), numbers.of(&tenant("liquid")));
        assert_eq!((numbers.enter(&tenant("")), numbers.of(&tenant("unknown"))), (NONE, NONE));
    }

    #[test]
    fn names_with_tasks_keep_their_numbers_and_of_the_others_so_many_do() {
        let mut numbers = Numbers::default();
        let (busy, idle) = (numbers.enter(&tenant("busy")), numbers.enter(&tenant("idle")));
        numbers.leave(&tenant("idle"));
        assert_eq!(numbers.enter(&tenant("idle")), idle, "it came back");
        numbers.leave(&tenant("idle"));
        for n in 0..2 * IDLE_MAX {
            let name = tenant(&format!("tenant {n}"));
            numbers.enter(&name);
            numbers.leave(&name);
        }
        assert_eq!(numbers.of(&tenant("busy")), busy);
        assert!(numbers.enter(&tenant("idle")) > idle, "another would have its account");
        assert!(numbers.names.len() <= IDLE_MAX + 2 && numbers.idle.len() <= IDLE_MAX);
    }

    #[test]
    fn one_name_that_comes_and_goes_takes_no_room_from_others() {
        let mut numbers = Numbers::default();
        for _ in 0..2 * IDLE_MAX {
            numbers.enter(&tenant("hasty"));
            numbers.leave(&tenant("hasty"));
        }
        assert!(numbers.idle.len() <= IDLE_MAX);
        assert_ne!(numbers.of(&tenant("hasty")), NONE);
    }
}
