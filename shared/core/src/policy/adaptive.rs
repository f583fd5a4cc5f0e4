//! `adaptive`, the default order: nearly shortest first, fair between tenants where it matters.
//!
//! Tasks compete by *key*, first arrival + [`BETA`] x estimate / root of weight, least first: shortest first
//! with ageing. Four rules stand above it, each for one promise (figures: docs/scheduling.md).
//!
//! 1. **Flood gate.** A tenant is *over* while far more of its tasks wait than of the others'. Those
//!    of an over tenant go only when nobody else's wait, or when its virtual time (vt: the work it
//!    has had, in µs) is the least: so no backlog of one tenant delays another, and a tenant without
//!    a backlog never pays for its own long tasks, the price of a gate on vt alone.
//! 2. **Express.** Critical and high tasks go first, up to half of the work.
//! 3. **Overtaking.** What is urgent inside an over tenant, and few against its flood, passes the
//!    gate, up to a third of the work.
//! 4. **Oldest-first guard.** Once a task has waited longer than the limit, at least a tenth of the
//!    work goes oldest first until none is past it.
//!
//! This file keeps the order; `choice` picks by the rules; `books` holds who waits and who owes what.
//!
//! What goes is charged the mean cost and settled at its end: charging estimates lets a wrong one
//! shut a tenant out. All arithmetic is in whole numbers and every order is total, so the same events
//! give the same decisions. Source: ELIG and AGE of the scheduling facts; the idea of a gate that
//! only a real backlog closes is that of SQS fair queues.

mod books;
mod choice;

use self::books::{Account, Lane, Line, Pick, Rule, Run, Standing, Tenant, log2, micros};
use crate::entry::{Entry, EntryId, LaneId, Lanes, TenantId};
use crate::policy::Policy;
use jetlane_schemas::registry::{Order, Weights};
use jetlane_schemas::{Micros, Priority};
use std::collections::{BTreeMap, BTreeSet};

/// How much of its estimate, over the root of its weight, a task has to wait before its age makes up for it.
const BETA: u64 = 100;
/// The key takes the square roots of the weights, in sixteenths: 8:4:2:1 of 64:16:4:1. The full ratio makes
/// a low task's p99 wait four times a normal one's and costs mean response; urgency proper is rule 2's.
const ROOT_PARTS: u64 = 16;
/// A tenant may be over from more waiting tasks than this on ...
const FLOOD_ENTER: u32 = 32;
/// ... until it has no more than this: what is left of a flood is its long tasks, old by then, and
/// would pass everybody.
const FLOOD_LEAVE: u32 = 8;
/// It is over with this many times as many as the others' geometric mean, as log2 in 1/256: 16 times,
/// so that a tenant that is merely large is not. Not the arithmetic mean, which a second flood lifts.
const RATIO_ENTER: u64 = 4 * 256;
/// It stops at this many times as many: 4 times.
const RATIO_LEAVE: u64 = 2 * 256;
/// What overtakes a flood is at most one in so many of its tenant's waiting tasks: a half, because
/// both sides may fill their windows and what is behind those is not seen.
const MINORITY: u32 = 2;
/// Mean costs from which an estimate is too long to go ahead by rule 2 or 3: one giant holds a server
/// for as long as thousands of tasks need.
const AHEAD_MAX: u64 = 32;
/// The most mean costs that a vt can lie above the floor, and an account off balance: one giant must
/// not shut its tenant, or all that is urgent, out for as long as it ran.
const DEBT_MAX: i64 = 8;
/// Mean costs by which a tenant may lie behind the floor, when it comes back and ever after: a small lead
/// over floods. What was charged by a mean that was far too large, as that of a first wrong estimate,
/// is not given back beyond it: it would hold the gate open for a flood.
const LEAD: i64 = 8;
/// Of so many tasks of a flood one is its oldest, the others those with the least keys.
const FLOOD_TURNS: u8 = 4;
/// Work of others for each unit of express work, of overtaking work and of the guard's.
const EXPRESS_PAYS: i64 = 1;
const OVERTAKING_PAYS: i64 = 2;
const GUARD_PAYS: i64 = 9;
/// The guard's limit in mean costs, and the most that an estimate lends its account while it runs.
const GUARD_LIMIT: u64 = 2_000;
const GUARD_LENDS: i64 = 4_096;
/// Completions that the mean cost looks back on; its fractional bits, for tasks of microseconds.
const MEAN_OVER: i64 = 4_096;
const MEAN_BITS: u32 = 10;
/// The longest cost that is reckoned with, in µs, 50 days: keeps sums far from overflow.
const COST_MAX: u64 = 1 << 42;
/// Tenants remembered while nothing of theirs waits.
const TENANTS_MAX: usize = 65_536;
/// Over tenants looked at for one decision: more matter only where these have nothing that fits.
const SCAN: usize = 64;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Adaptive {
    guard_limit: Limit,
    /// The roots of the weights, by rank.
    roots: [u64; 4],
    tenants: BTreeMap<TenantId, Tenant>,
    filed: [BTreeSet<(i64, TenantId)>; 3],
    lanes: Vec<Lane>,
    waiting: Lanes,
    running: BTreeMap<EntryId, Run>,
    /// The vt below which nobody starts; it never falls.
    floor: i64,
    mean: i64,
    ended: i64,
    /// Tenants with waiting tasks; the sum of the logarithms of how many.
    backlogged: u64,
    logs: u64,
    express: Account,
    overtaking: Account,
    guard: Account,
}

/// How long a task waits until the guard steps in.
#[derive(Debug, Clone, Copy)]
enum Limit {
    MeanCosts(u64),
    Fixed(Micros),
}

impl Adaptive {
    /// By the weights of this order, with a guard that steps in after its longest wait, or else after
    /// [`GUARD_LIMIT`].
    pub(super) fn new(order: Order) -> Self {
        let fixed = order.max_wait_ms.map(|ms| Limit::Fixed(Micros(ms.saturating_mul(1_000))));
        Self::with(fixed.unwrap_or(Limit::MeanCosts(GUARD_LIMIT)), order.weights)
    }

    fn with(guard_limit: Limit, weights: Weights) -> Self {
        let root = |priority| (u64::from(weights.of(priority)) * ROOT_PARTS * ROOT_PARTS).isqrt();
        Self {
            guard_limit,
            roots: Priority::ALL.map(root),
            tenants: BTreeMap::new(),
            filed: Default::default(),
            lanes: (0..LaneId::COUNT).map(|_| Lane::default()).collect(),
            waiting: Lanes::default(),
            running: BTreeMap::new(),
            floor: 0,
            mean: 0,
            ended: 0,
            backlogged: 0,
            logs: 0,
            express: Account::default(),
            overtaking: Account::default(),
            guard: Account::default(),
        }
    }

    /// What a task's age is set against: least first.
    fn key(&self, entry: &Entry) -> u64 {
        entry.first_arrival.0.saturating_add(self.handicap(entry.estimate.0, entry.priority))
    }

    fn handicap(&self, estimate: u64, priority: Priority) -> u64 {
        BETA * ROOT_PARTS * estimate.min(COST_MAX) / self.roots[priority.rank()]
    }

    /// The mean cost in µs; at least 1 once anything was seen.
    fn mean_cost(&self) -> i64 {
        self.mean >> MEAN_BITS
    }

    /// Whether a tenant with so many waiting tasks is over. Alone it stays what it was: there is
    /// nobody to compare it with.
    fn is_over(&self, waiting: u32, was: bool) -> bool {
        let (least, ratio) = if was { (FLOOD_LEAVE, RATIO_LEAVE) } else { (FLOOD_ENTER, RATIO_ENTER) };
        if waiting <= least || self.backlogged <= 1 {
            return was && waiting > least;
        }
        let own = log2(waiting);
        own.saturating_sub(ratio) * (self.backlogged - 1) > self.logs - own
    }

    fn count(&mut self, tenant: TenantId, rank: usize, more: bool) {
        let Some(tenant) = self.tenants.get_mut(&tenant) else { return };
        let before = tenant.total();
        tenant.waiting[rank] = if more { tenant.waiting[rank] + 1 } else { tenant.waiting[rank].saturating_sub(1) };
        let after = tenant.total();
        self.backlogged = self.backlogged + u64::from(after > 0) - u64::from(before > 0);
        self.logs = self.logs + log2(after) - log2(before);
    }

    /// Brings everything that follows from a tenant's tasks and vt up to date.
    fn refresh(&mut self, id: TenantId) {
        let Some((total, was)) = self.tenants.get(&id).map(|tenant| (tenant.total(), tenant.over)) else { return };
        let over = self.is_over(total, was);
        let Some(tenant) = self.tenants.get_mut(&id) else { return };
        tenant.over = over;
        let floods = Priority::ALL.map(|priority| tenant.is_flood(priority));
        for line in &mut tenant.lines {
            line.flood = over && floods[line.lane.priority().rank()];
            let lane = &mut self.lanes[line.lane.number()];
            let first = line.by_key.first_key_value().filter(|_| !line.flood);
            let listed = first.map(|(&(key, entry), _)| (over, key, entry));
            if listed != line.listed {
                if let Some((over, key, entry)) = line.listed {
                    lane.set(over).remove(&(key, entry, id));
                }
                if let Some((over, key, entry)) = listed {
                    lane.set(over).insert((key, entry, id));
                }
                line.listed = listed;
            }
            let age = line.by_age.first_key_value().map(|(&(arrival, entry), &key)| (arrival, entry, key));
            if age != line.listed_age {
                if let Some((arrival, entry, key)) = line.listed_age {
                    lane.oldest.remove(&(arrival, entry, id, key));
                }
                if let Some((arrival, entry, key)) = age {
                    lane.oldest.insert((arrival, entry, id, key));
                }
                line.listed_age = age;
            }
            if lane.oldest.is_empty() { self.waiting.remove(line.lane) } else { self.waiting.insert(line.lane) }
        }
        let standing = match (total, over) {
            (0, _) => Standing::Idle,
            (_, false) => Standing::Within,
            (_, true) => Standing::Over,
        };
        if tenant.filed != (standing, tenant.vt) {
            self.filed[tenant.filed.0 as usize].remove(&(tenant.filed.1, id));
            tenant.filed = (standing, tenant.vt);
            self.filed[standing as usize].insert((tenant.vt, id));
        }
    }

    /// Drops the tenant that lies furthest behind among those with nothing waiting: it loses the
    /// least, since a tenant that comes back starts near the floor anyway.
    fn forget(&mut self) {
        while self.tenants.len() > TENANTS_MAX {
            let Some((_, idle)) = self.filed[Standing::Idle as usize].pop_first() else { return };
            self.tenants.remove(&idle);
        }
    }

    /// Takes a task out of its line and says when it arrived.
    fn detach(&mut self, tenant: TenantId, lane: LaneId, key: u64, id: EntryId) -> Option<Micros> {
        let line = self.tenants.get_mut(&tenant)?.lines.iter_mut().find(|line| line.lane == lane)?;
        let arrival = line.by_key.remove(&(key, id))?;
        line.by_age.remove(&(arrival, id));
        self.count(tenant, lane.priority().rank(), false);
        Some(arrival)
    }

    /// Takes the pick out and charges it. `past`: a task waits beyond the guard's limit.
    fn dispatch(&mut self, pick: Pick, past: bool) -> EntryId {
        let Pick { key, id, tenant, lane, rule, flood } = pick;
        let [_, within, over] = &self.filed;
        let least = within.first().into_iter().chain(over.first()).map(|first| first.0).min();
        self.floor = self.floor.max(least.unwrap_or(self.floor));
        let arrival = self.detach(tenant, lane, key, id).unwrap_or_default();
        let charge = self.mean_cost();
        let mut run = Run { rule, charge, lent: 0, counts: past || self.guard.owed > 0 };
        if rule == Rule::Guard {
            let estimate = key.saturating_sub(arrival.0) * self.roots[lane.priority().rank()] / (BETA * ROOT_PARTS);
            run.lent = micros(estimate).min(GUARD_LENDS * charge);
            self.guard.owed += GUARD_PAYS * run.lent;
        }
        self.running.insert(id, run);
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.turn = (tenant.turn + u8::from(flood)) % FLOOD_TURNS;
        }
        self.charge(tenant, rule, charge);
        id
    }

    /// Adds to what a tenant and the accounts of rules 2 and 3 have had, or takes from it.
    fn charge(&mut self, tenant: TenantId, rule: Rule, cost: i64) {
        let (bound, lead) = (DEBT_MAX * self.mean_cost(), LEAD * self.mean_cost());
        self.express.book(rule == Rule::Express, EXPRESS_PAYS, cost, bound);
        self.overtaking.book(rule == Rule::Overtaking, OVERTAKING_PAYS, cost, bound);
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.vt = (tenant.vt + cost).clamp(self.floor - lead, self.floor + bound);
        }
        self.refresh(tenant);
    }
}

impl Policy for Adaptive {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        if self.ended == 0 {
            self.mean = micros(entry.estimate.0.max(1)) << MEAN_BITS;
        }
        let key = self.key(entry);
        let start = self.floor - LEAD * self.mean_cost();
        if !self.tenants.contains_key(&entry.tenant) {
            self.forget();
        }
        let tenant = self.tenants.entry(entry.tenant).or_insert_with(|| Tenant::new(start));
        if tenant.total() == 0 {
            tenant.vt = tenant.vt.max(start);
        }
        let lane = entry.lane();
        let place = tenant.lines.iter().position(|line| line.lane == lane).unwrap_or_else(|| {
            tenant.lines.push(Line::new(lane));
            tenant.lines.len() - 1
        });
        let line = &mut tenant.lines[place];
        line.by_key.insert((key, entry.id), entry.first_arrival);
        line.by_age.insert((entry.first_arrival, entry.id), key);
        self.count(entry.tenant, entry.priority.rank(), true);
        self.refresh(entry.tenant);
    }

    fn remove(&mut self, entry: &Entry) {
        self.detach(entry.tenant, entry.lane(), self.key(entry), entry.id);
        self.refresh(entry.tenant);
    }

    fn take(&mut self, now: Micros, lanes: Lanes) -> Option<EntryId> {
        let lanes = lanes.and(self.waiting);
        let past = self.past_limit(now, lanes);
        if past.is_none() {
            self.guard.owed = self.guard.owed.max(0);
        }
        if let Some(oldest) = past.filter(|_| self.guard.owed <= 0) {
            return Some(self.dispatch(oldest, true));
        }
        loop {
            let pick = self.choose(lanes)?;
            // The others' backlogs have changed since its standing was last looked at.
            let stale = self.tenants.get(&pick.tenant).is_some_and(|t| t.over != self.is_over(t.total(), t.over));
            if !stale {
                return Some(self.dispatch(pick, past.is_some()));
            }
            self.refresh(pick.tenant);
        }
    }

    fn not_stored(&mut self, entry: &Entry) {
        if let Some(run) = self.running.remove(&entry.id) {
            self.guard.owed -= GUARD_PAYS * run.lent;
            self.charge(entry.tenant, run.rule, -run.charge);
        }
    }

    fn ended(&mut self, entry: &Entry, cost: Micros) {
        let cost = micros(cost.0);
        self.ended = (self.ended + 1).min(MEAN_OVER);
        self.mean += ((cost << MEAN_BITS) - self.mean) / self.ended;
        self.mean = self.mean.max(1 << MEAN_BITS);
        let Some(run) = self.running.remove(&entry.id) else { return };
        if run.rule == Rule::Guard {
            self.guard.owed += GUARD_PAYS * (cost - run.lent);
        } else if run.counts {
            self.guard.owed -= cost;
        }
        self.charge(entry.tenant, run.rule, cost - run.charge);
    }

    fn is_over_share(&self, entry: &Entry) -> bool {
        let tenant = self.tenants.get(&entry.tenant);
        tenant.is_some_and(|t| self.is_over(t.total(), t.over) && t.is_flood(entry.priority))
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests;
