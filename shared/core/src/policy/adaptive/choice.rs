//! Which task goes next: the rules of `adaptive`, in their order. Nothing is changed here.

use super::books::{Pick, Rule, Standing};
use super::{AHEAD_MAX, Adaptive, FLOOD_TURNS, Limit, SCAN};
use crate::entry::{EntryId, LaneId, Lanes};
use jetlane_schemas::{Micros, Priority};

impl Adaptive {
    /// The oldest task, if it has waited longer than the guard's limit.
    pub(super) fn past_limit(&self, now: Micros, lanes: Lanes) -> Option<Pick> {
        let (oldest, arrival) = self.oldest(lanes, Rule::Guard)?;
        let limit = match self.guard_limit {
            Limit::MeanCosts(costs) => costs.saturating_mul(self.mean_cost().unsigned_abs()),
            Limit::Fixed(limit) => limit.0,
        };
        (now.0.saturating_sub(arrival.0) > limit).then_some(oldest)
    }

    fn oldest(&self, lanes: Lanes, rule: Rule) -> Option<(Pick, Micros)> {
        let oldest = lanes.filter_map(|lane| self.lanes[lane.number()].oldest.first().map(|&oldest| (oldest, lane)));
        let ((arrival, id, tenant, key), lane) = oldest.min()?;
        Some((Pick { key, id, tenant, lane, rule, flood: false }, arrival))
    }

    fn least(&self, lanes: impl Iterator<Item = LaneId>, rule: Rule) -> Option<Pick> {
        let overtaking = rule == Rule::Overtaking;
        let head = |lane: LaneId| {
            let lane = &self.lanes[lane.number()];
            if overtaking { lane.overtaking.first() } else { lane.heads.first() }.copied()
        };
        let ((key, id, tenant), lane) = lanes.filter_map(|lane| Some((head(lane)?, lane))).min()?;
        Some(Pick { key, id, tenant, lane, rule, flood: false })
    }

    /// The next by rule 2 or 3: the most urgent first, none that is too long.
    fn ahead(&self, lanes: Lanes, rule: Rule) -> Option<Pick> {
        let ranks = if rule == Rule::Express { Priority::High.rank() } else { Priority::Low.rank() };
        Priority::ALL.into_iter().take(ranks + 1).find_map(|priority| {
            let pick = self.least(lanes.filter(|lane| lane.priority() == priority), rule)?;
            let line = self.tenants.get(&pick.tenant)?.lines.iter().find(|line| line.lane == pick.lane)?;
            let waited_for = pick.key.saturating_sub(line.by_key.get(&(pick.key, pick.id))?.0);
            let longest = AHEAD_MAX.saturating_mul(self.mean_cost().unsigned_abs());
            (waited_for <= self.handicap(longest, priority)).then_some(pick)
        })
    }

    /// The next of the over tenant with the least vt. What is urgent goes first; then the oldest and
    /// the least key by turns: a flood served shortest first ends with all its giants at once, on
    /// every server (victims' p99 wait, BP1.3: x 1.4).
    fn flood(&self, lanes: Lanes) -> Option<Pick> {
        for &(_, id) in self.filed[Standing::Over as usize].iter().take(SCAN) {
            let Some(tenant) = self.tenants.get(&id) else { continue };
            let lines = || tenant.lines.iter().filter(|line| lanes.contains(line.lane));
            let pick = |(key, entry): (u64, EntryId), lane, flood| Pick {
                key,
                id: entry,
                tenant: id,
                lane,
                rule: Rule::Key,
                flood,
            };
            let urgent = lines().filter_map(|line| Some((line.lane.priority(), line.listed?, line.lane)));
            if let Some((_, (_, key, entry), lane)) = urgent.min() {
                return Some(pick((key, entry), lane, false));
            }
            let by_key = || lines().filter_map(|line| Some((*line.by_key.first_key_value()?.0, line.lane))).min();
            let by_age = || lines().filter_map(|line| Some((line.listed_age?, line.lane))).min();
            let next = if tenant.turn + 1 == FLOOD_TURNS {
                by_age().map(|((_, e, key), lane)| ((key, e), lane))
            } else {
                by_key()
            };
            if let Some((head, lane)) = next {
                return Some(pick(head, lane, true));
            }
        }
        None
    }

    /// What goes next by the rules above the guard's.
    pub(super) fn choose(&self, lanes: Lanes) -> Option<Pick> {
        let express = || if self.express.owed <= 0 { self.ahead(lanes, Rule::Express) } else { None };
        let overtaking = || if self.overtaking.owed <= 0 { self.ahead(lanes, Rule::Overtaking) } else { None };
        let by_key = || self.least(lanes, Rule::Key);
        let [_, within, over] = &self.filed;
        let flood_first = over.first().zip(within.first()).is_some_and(|(over, within)| over.0 < within.0);
        express()
            .or_else(overtaking)
            .or_else(|| match flood_first {
                true => self.flood(lanes).or_else(by_key),
                false => by_key().or_else(|| self.flood(lanes)),
            })
            // More tenants are over than are looked at, and what fits is of the others.
            .or_else(|| self.oldest(lanes, Rule::Key).map(|(oldest, _)| oldest))
    }
}
