//! The memory that decoding may take, shared by all runs of a process.

use std::collections::VecDeque;
use std::fs::read_to_string;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The part of the process's memory that decoding may take, in percent: the rest is for everything else.
const PERCENT: u64 = 75;
/// The budget where the memory of the machine cannot be read, in bytes.
const UNKNOWN_BYTES: u64 = 1 << 30;
/// How often a run that waits for memory looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A number of bytes that runs reserve before they decode. They are served in the order in which they
/// asked, so that a large picture is not overtaken for ever by small ones.
#[derive(Debug)]
pub(super) struct Budget {
    total: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: u64,
    /// Runs that wait, the oldest first. Bounded by the executor's slots.
    waiting: VecDeque<u64>,
    next: u64,
}

/// Why nothing was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// More than the whole budget was asked for.
    TooMuch,
    /// The run was told to stop while it waited.
    Stopped,
}

/// A reservation, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            state: Mutex::new(State { free: total, waiting: VecDeque::new(), next: 0 }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Reserves `bytes`; blocks until they are free or `stopped` says so.
    pub(super) fn reserve(&self, bytes: u64, stopped: impl Fn() -> bool) -> Result<Reserved<'_>, Denied> {
        if bytes > self.total {
            return Err(Denied::TooMuch);
        }
        let mut state = self.lock();
        let ticket = state.next;
        state.next += 1;
        state.waiting.push_back(ticket);
        while state.waiting.front() != Some(&ticket) || state.free < bytes {
            if stopped() {
                state.waiting.retain(|other| *other != ticket);
                self.changed.notify_all();
                return Err(Denied::Stopped);
            }
            state = self.changed.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting.pop_front();
        state.free -= bytes;
        // The next in line may fit beside this one.
        self.changed.notify_all();
        Ok(Reserved { budget: self, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.budget.lock().free += self.bytes;
        self.budget.changed.notify_all();
    }
}

/// Returns the budget in bytes for a process with this much memory in MiB; where it is not stated,
/// with what its cgroup allows and the machine has available now.
pub(super) fn default_bytes(memory_mib: Option<u32>) -> u64 {
    let memory = memory_mib.map(|mib| u64::from(mib) << 20).or_else(memory);
    memory.map_or(UNKNOWN_BYTES, |bytes| bytes / 100 * PERCENT)
}

fn memory() -> Option<u64> {
    let available = read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    [cgroup_limit(), available].into_iter().flatten().min()
}

fn available(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    rest.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// The smallest limit of the cgroups (v2) that this process is in, or the limit of version 1.
fn cgroup_limit() -> Option<u64> {
    let root = Path::new("/sys/fs/cgroup");
    let number = |path: &Path| read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let text = read_to_string("/proc/self/cgroup").ok()?;
    let inside = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = root.join(inside);
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    groups
        .filter_map(|group| number(&group.join("memory.max")))
        .min()
        .or_else(|| number(&root.join("memory/memory.limit_in_bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    #[test]
    fn runs_never_reserve_more_than_the_budget_together_and_all_are_served() {
        let budget = Budget::new(100);
        let (held, most, served) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for bytes in [60, 60, 10, 100, 40, 35, 100, 1] {
                let (budget, held, most, served) = (&budget, &held, &most, &served);
                scope.spawn(move || {
                    let reserved = budget.reserve(bytes, || false).expect("within the budget");
                    most.fetch_max(held.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                    thread::yield_now();
                    held.fetch_sub(bytes, Ordering::SeqCst);
                    drop(reserved);
                    served.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(served.load(Ordering::SeqCst), 8);
        assert!(most.load(Ordering::SeqCst) <= 100);
        assert_eq!(budget.lock().free, 100);
    }

    #[test]
    fn more_than_the_budget_is_denied_and_a_stopped_run_leaves_the_line() {
        let budget = Budget::new(100);
        assert_eq!(budget.reserve(101, || false).map(|_| ()), Err(Denied::TooMuch));
        let all = budget.reserve(100, || false).expect("free");
        assert_eq!(budget.reserve(1, || true).map(|_| ()), Err(Denied::Stopped));
        drop(all);
        assert!(budget.reserve(100, || true).is_ok());
    }

    #[test]
    fn the_default_follows_the_memory_that_is_stated_or_found() {
        assert_eq!(default_bytes(Some(100)), (100 << 20) / 100 * PERCENT);
        assert!(default_bytes(None) > 0);
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:  7 kB\n"), Some(7 * 1_024));
    }
}
