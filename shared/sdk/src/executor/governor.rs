//! Joins the limit to the world: feeds it run times and pressure, and tells what follows.

use super::credit::Ledger;
use super::limit::{Concurrency, JUDGE_EVERY, Limit, Moved, Usual, Why};
use super::pressure::{Gauge, Pressure};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// How often pressure is read: the kernel's own averages move no faster.
const READ_EVERY: Duration = Duration::from_secs(1);

/// What one executor may run at once, as it finds itself.
pub(crate) struct Governor {
    began: Instant,
    /// `None` where the limit is fixed.
    adaptive: Option<Adaptive>,
    limit: watch::Sender<usize>,
}

struct Adaptive {
    gauge: Gauge,
    limit: Mutex<Limit>,
}

impl Adaptive {
    fn lock(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().expect("nobody panics while judging the limit")
    }
}

impl Governor {
    pub(crate) fn new(slots: usize, concurrency: Concurrency, gauge: Gauge) -> Self {
        let adaptive = match concurrency {
            Concurrency::Adaptive => Some(Adaptive { gauge, limit: Mutex::new(Limit::new(slots)) }),
            Concurrency::Fixed => None,
        };
        Self { began: Instant::now(), adaptive, limit: watch::Sender::new(slots) }
    }

    /// Handlers that may run at once.
    pub(crate) fn limit(&self) -> usize {
        *self.limit.borrow()
    }

    /// Tells when that changes.
    pub(crate) fn changes(&self) -> watch::Receiver<usize> {
        self.limit.subscribe()
    }

    /// A whole run of a type succeeded in this time.
    pub(crate) fn measure(&self, usual: &Mutex<Usual>, took: Duration) {
        let Some(adaptive) = &self.adaptive else { return };
        let now = self.began.elapsed();
        let learning = adaptive.lock().learning();
        let mut usual = usual.lock().expect("nobody panics while learning a run time");
        if let Some(compared) = usual.compare(now, took, learning) {
            adaptive.lock().ended(now, compared);
        }
    }

    /// Judges the limit again and again, and has the ledger tell it.
    pub(crate) async fn run(self: Arc<Self>, ledger: Arc<Ledger>) {
        let Some(adaptive) = &self.adaptive else { return };
        let mut every = tokio::time::interval(JUDGE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pressure, mut read_at) = (Pressure::default(), None);
        loop {
            let now = every.tick().await;
            if read_at.is_none_or(|at| now.saturating_duration_since(at) >= READ_EVERY) {
                pressure = (adaptive.gauge)();
                read_at = Some(now);
            }
            let moved = adaptive.lock().judge(now.saturating_duration_since(self.began), pressure);
            if let Some(moved) = moved {
                say(moved, ledger.slots(), pressure);
                ledger.limit(moved.to);
                self.limit.send_replace(moved.to);
            }
        }
    }
}

/// Every step down is said, and that it is all the way up again; the steps on the way up are not.
fn say(moved: Moved, slots: usize, pressure: Pressure) {
    let Moved { from, to, why } = moved;
    let Pressure { memory_used, memory_stalled, cpu_waited } = pressure;
    if to > from {
        if to == slots {
            tracing::info!(slots, "Pressure is over; the executor takes tasks for all its slots again.");
        } else {
            tracing::debug!(from, to, slots, "The executor takes more again.");
        }
        return;
    }
    match why {
        Why::Memory => {
            tracing::warn!(
                from,
                to,
                slots,
                memory_used,
                memory_stalled,
                "Memory is short; the executor takes fewer tasks."
            );
        }
        Why::RunTimes | Why::Recovery => {
            tracing::warn!(
                from,
                to,
                slots,
                cpu_waited,
                "Runs take longer than is usual for their types; the executor takes fewer tasks."
            );
        }
    }
}
