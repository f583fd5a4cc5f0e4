//! Makes a plan that breaks a rule smaller, as long as it breaks the same rule.

use crate::checker::Violation;
use crate::mutant::Mutants;
use crate::plan::{Ends, Fault, Naming, Plan, Sharing};
use crate::site::Site;
use std::fmt;

/// Plans that are tried, at most.
const TRIES_MAX: u32 = 3_000;

/// The smallest plan that was found, and what it breaks.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// What it breaks.
    pub violation: Violation,
    /// Plans that were tried.
    pub tries: u32,
}

impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, policy, sharing, executors, slots, prefetch, tasks, faults } = &self.plan;
        writeln!(
            f,
            "seed {seed}, shrunk in {} tries to {} tasks and {} faults:",
            self.tries,
            tasks.len(),
            faults.len()
        )?;
        let policy = policy.as_str();
        writeln!(f, "  policy {policy}, {sharing:?}, {executors} executors of {slots} slots, prefetch {prefetch}")?;
        tasks.iter().enumerate().try_for_each(|(index, task)| writeln!(f, "  task {index}: {task:?}"))?;
        faults.iter().try_for_each(|fault| writeln!(f, "  {fault:?}"))?;
        write!(f, "  {}", self.violation)
    }
}

/// Leaves out faults, tasks and options while the plan goes on breaking the same rule. `violation` is what the whole
/// plan breaks.
pub fn shrink(plan: &Plan, violation: &Violation, mutants: Mutants) -> Shrunk {
    let mut smallest = Shrunk { plan: plan.clone(), violation: violation.clone(), tries: 0 };
    loop {
        let before = smallest.plan.clone();
        for smaller in candidates(&before) {
            if smallest.tries >= TRIES_MAX {
                return smallest;
            }
            smallest.tries += 1;
            if let Err(violation) = Site::run(&smaller, mutants)
                && violation.rule == smallest.violation.rule
            {
                smallest.plan = smaller;
                smallest.violation = violation;
                break;
            }
        }
        if smallest.plan == before {
            return smallest;
        }
    }
}

/// Plans with a little less, the largest cuts first.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    cut(plan.tasks.len(), |from, to| {
        let mut smaller = plan.clone();
        smaller.tasks.drain(from..to);
        all.push(smaller);
    });
    cut(plan.faults.len(), |from, to| {
        let mut smaller = plan.clone();
        smaller.faults.drain(from..to);
        all.push(smaller);
    });
    let mut change = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        if smaller != *plan {
            all.push(smaller);
        }
    };
    change(&|plan| plan.executors = plan.executors.saturating_sub(1).max(1));
    change(&|plan| plan.slots = 1);
    change(&|plan| plan.prefetch = 0);
    change(&|plan| plan.sharing = Sharing::Alone);
    for index in 0..plan.tasks.len() {
        change(&|plan| plan.tasks[index].again = None);
        change(&|plan| plan.tasks[index].cancel = None);
        change(&|plan| plan.tasks[index].deadline = None);
        change(&|plan| plan.tasks[index].delay = None);
        change(&|plan| plan.tasks[index].callbacks = 0);
        change(&|plan| plan.tasks[index].naming = Naming::Own);
        change(&|plan| plan.tasks[index].ends = Ends::After(0));
        change(&|plan| plan.tasks[index].retries = 0);
        change(&|plan| plan.tasks[index].rank = 0);
        change(&|plan| plan.tasks[index].at = 0);
        change(&|plan| plan.tasks[index].takes = plan.tasks[index].takes.min(crate::world::MS));
    }
    for index in 0..plan.faults.len() {
        change(&|plan| {
            if let Fault::Message { count, .. } = &mut plan.faults[index] {
                *count = 1;
            }
        });
    }
    all
}

/// Ranges to leave out: halves, quarters, and so on down to single ones.
fn cut(len: usize, mut leave_out: impl FnMut(usize, usize)) {
    let mut size = len;
    while size > 0 {
        let mut from = 0;
        while from < len {
            leave_out(from, (from + size).min(len));
            from += size;
        }
        size /= 2;
    }
}
