//! The ideal: preemptive shortest-remaining-time-first on all servers, with exact sizes, at no cost.
//!
//! A reference to measure `srtf` against, and no policy of the queue: it stops any task at any moment
//! and knows what nobody knows.

use crate::arrivals::Arrivals;
use crate::figures::Lives;
use jetlane_schemas::Micros;
use std::collections::BTreeSet;

/// Runs all arrivals.
pub(crate) fn run(arrivals: &Arrivals, servers: u32) -> Lives {
    let mut world = World { running: BTreeSet::new(), waiting: BTreeSet::new(), lives: Lives::new(arrivals) };
    for (number, task) in arrivals.tasks().iter().enumerate() {
        world.until(task.arrival);
        world.waiting.insert((task.size, number as u32));
        world.fill(task.arrival, servers as usize);
    }
    world.until(Micros(u64::MAX));
    world.lives
}

struct World {
    /// By the time of their end, which is also the order of what is left: all run equally fast.
    running: BTreeSet<(Micros, u32, Micros)>,
    /// By what is left.
    waiting: BTreeSet<(Micros, u32)>,
    lives: Lives,
}

impl World {
    /// Ends what ends up to a time, and starts what waits in its place.
    fn until(&mut self, now: Micros) {
        while let Some(&(end, task, since)) = self.running.first()
            && end <= now
        {
            self.running.pop_first();
            self.lives.ran(task, since, end);
            self.lives.ended(task, end);
            if let Some((left, next)) = self.waiting.pop_first() {
                self.start(end, next, left);
            }
        }
    }

    /// Gives the servers to those with the least left.
    fn fill(&mut self, now: Micros, servers: usize) {
        while let Some(&(left, task)) = self.waiting.first() {
            if self.running.len() >= servers {
                let Some(&(end, other, since)) = self.running.last() else { return };
                let left_of_other = Micros(end.0 - now.0);
                if left >= left_of_other {
                    return;
                }
                self.running.pop_last();
                self.lives.ran(other, since, now);
                self.lives.yielded(other);
                self.waiting.insert((left_of_other, other));
            }
            self.waiting.remove(&(left, task));
            self.start(now, task, left);
        }
    }

    fn start(&mut self, now: Micros, task: u32, left: Micros) {
        self.running.insert((Micros(now.0 + left.0), task, now));
    }
}
