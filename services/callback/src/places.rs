//! Shares deliveries between receivers, so that a slow one keeps no other waiting.
//!
//! An endpoint takes at most as many places as are free for others (a dynamic threshold: n slow ones share them
//! evenly), and always has one of its own. A callback without a place is stored to be due when its receiver, at its
//! measured speed, should have worked off those before it: it is stored once or twice more, and not every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Places that all receivers share. Beyond them each endpoint has one.
pub(crate) const PLACES_MAX: usize = 256;
/// Deliveries to one endpoint at a time: a slow receiver is not flooded.
const DELIVERIES_MAX: usize = 32;
/// Places of one endpoint: one waits for each that is delivered, so that the endpoint is never idle.
const ENDPOINT_PLACES_MAX: usize = 2 * DELIVERIES_MAX;
/// Places of all URLs that came with tasks together: submitters share these, whatever hosts they name.
const URL_PLACES_MAX: usize = 64;
/// Deliveries to one origin of URLs that came with tasks, at a time.
const ORIGIN_DELIVERIES_MAX: usize = 8;
/// Origins that are remembered beyond their deliveries, for the pauses of what waits for them.
const ORIGINS_MAX: usize = 1_024;
/// The shortest pause of a callback without a place. It counts as no delivery.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// The longest: a receiver that is quick again waits no longer for what was stored away.
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// How long a delivery takes before the first of its receiver was measured.
const FIRST_GUESS: Duration = Duration::from_millis(100);
/// The weight of the last delivery in the mean.
const NEWEST_SHARE: f64 = 0.2;

/// Where deliveries go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Receiver {
    /// An endpoint of the configuration, by name.
    Endpoint(String),
    /// Scheme, host and port of a URL that came with a task.
    Origin(String),
}

impl Receiver {
    fn deliveries_max(&self) -> usize {
        match self {
            Self::Endpoint(_) => DELIVERIES_MAX,
            Self::Origin(_) => ORIGIN_DELIVERIES_MAX,
        }
    }
}

/// The places of a process.
#[derive(Debug, Default)]
pub(crate) struct Places {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    urls: usize,
    receivers: HashMap<Receiver, Load>,
}

#[derive(Debug)]
struct Load {
    places: usize,
    permits: Arc<Semaphore>,
    /// How long a delivery takes, in seconds.
    mean_s: f64,
    /// When the last of what was stored away has its turn.
    turns_until: Option<Instant>,
}

impl Places {
    /// Takes a place for one delivery; otherwise how long the callback should stay away.
    ///
    /// # Errors
    /// The pause.
    pub(crate) fn take(self: &Arc<Self>, receiver: Receiver, now: Instant) -> Result<Place, Duration> {
        let mut taken = self.lock();
        let Some(room) = taken.room(&receiver, now) else { return Err(PAUSE_MIN) };
        let load = taken.receivers.entry(receiver.clone()).or_insert_with(|| Load::new(&receiver));
        if load.places >= room {
            return Err(load.pause(&receiver, now));
        }
        load.places += 1;
        let permits = Arc::clone(&load.permits);
        taken.all += 1;
        taken.urls += usize::from(matches!(receiver, Receiver::Origin(_)));
        Ok(Place { places: Arc::clone(self), receiver, permits })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("nobody panics while holding the places")
    }
}

impl Taken {
    /// Returns how many places a receiver may have now; `None` where it can be neither served nor remembered.
    fn room(&mut self, receiver: &Receiver, now: Instant) -> Option<usize> {
        let free = PLACES_MAX.saturating_sub(self.all);
        match receiver {
            // At least its own.
            Receiver::Endpoint(_) => Some(free.clamp(1, ENDPOINT_PLACES_MAX)),
            Receiver::Origin(_) => {
                if self.receivers.len() >= ORIGINS_MAX && !self.receivers.contains_key(receiver) {
                    self.receivers.retain(|receiver, load| {
                        matches!(receiver, Receiver::Endpoint(_))
                            || load.places > 0
                            || load.turns_until.is_some_and(|until| until > now)
                    });
                    if self.receivers.len() >= ORIGINS_MAX {
                        return None;
                    }
                }
                let free = free.min(URL_PLACES_MAX.saturating_sub(self.urls));
                Some(free.min(2 * ORIGIN_DELIVERIES_MAX))
            }
        }
    }
}

impl Load {
    fn new(receiver: &Receiver) -> Self {
        let permits = Arc::new(Semaphore::new(receiver.deliveries_max()));
        Self { places: 0, permits, mean_s: FIRST_GUESS.as_secs_f64(), turns_until: None }
    }

    /// The next turn, at the receiver's measured speed.
    fn pause(&mut self, receiver: &Receiver, now: Instant) -> Duration {
        let at_a_time = u32::try_from(receiver.deliveries_max()).unwrap_or(u32::MAX);
        let each = Duration::try_from_secs_f64(self.mean_s).unwrap_or(PAUSE_MAX) / at_a_time;
        let turn = self.turns_until.unwrap_or(now).max(now + PAUSE_MIN) + each;
        let turn = turn.min(now + PAUSE_MAX);
        self.turns_until = Some(turn);
        turn.saturating_duration_since(now)
    }
}

/// A place for one delivery; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    receiver: Receiver,
    permits: Arc<Semaphore>,
}

impl Place {
    /// Waits until the receiver has fewer deliveries than it may have at a time.
    pub(crate) async fn permit(&self) -> SemaphorePermit<'_> {
        self.permits.acquire().await.expect("nobody closes the permits")
    }

    /// Notes how long the delivery took.
    pub(crate) fn measured(&self, took: Duration) {
        if let Some(load) = self.places.lock().receivers.get_mut(&self.receiver) {
            load.mean_s += NEWEST_SHARE * (took.as_secs_f64() - load.mean_s);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        taken.urls -= usize::from(matches!(self.receiver, Receiver::Origin(_)));
        if let Some(load) = taken.receivers.get_mut(&self.receiver) {
            load.places -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::ENDPOINTS_MAX;

    fn endpoint(name: &str) -> Receiver {
        Receiver::Endpoint(name.into())
    }

    fn origin(number: usize) -> Receiver {
        Receiver::Origin(format!("https://{number}.example.com:443"))
    }

    fn fill(places: &Arc<Places>, receiver: &Receiver, now: Instant) -> Vec<Place> {
        std::iter::from_fn(|| places.take(receiver.clone(), now).ok()).collect()
    }

    #[test]
    fn slow_receivers_never_take_all_places() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        let mut held = Vec::new();
        for number in 0..ENDPOINTS_MAX - 1 {
            held.push(fill(&places, &endpoint(&number.to_string()), now));
        }
        assert_eq!(held[0].len(), ENDPOINT_PLACES_MAX);
        assert!(places.take(endpoint("healthy"), now).is_ok(), "slow endpoints have taken every place");
        assert!(places.lock().all < PLACES_MAX + ENDPOINTS_MAX);
        drop(held);
        assert_eq!(fill(&places, &endpoint("a"), now).len(), ENDPOINT_PLACES_MAX, "places are free again");
    }

    #[test]
    fn urls_of_tasks_leave_endpoints_their_places() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        let held: Vec<Place> = (0..1_000).filter_map(|number| places.take(origin(number), now).ok()).collect();
        assert_eq!(held.len(), URL_PLACES_MAX);
        assert_eq!(fill(&places, &endpoint("a"), now).len(), ENDPOINT_PLACES_MAX);
        let other = Arc::new(Places::default());
        assert_eq!(fill(&other, &origin(0), now).len(), 2 * ORIGIN_DELIVERIES_MAX);
    }

    #[test]
    fn origins_are_remembered_within_a_bound() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        for number in 0..10 * ORIGINS_MAX {
            drop(places.take(origin(number), now));
        }
        assert!(places.lock().receivers.len() <= ORIGINS_MAX);
    }

    #[test]
    fn callbacks_without_a_place_take_turns_at_the_speed_of_their_receiver() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        let held = fill(&places, &endpoint("slow"), now);
        for _ in 0..100 {
            held[0].measured(Duration::from_secs(16));
        }
        let pauses: Vec<Duration> =
            (0..1_000).map(|_| places.take(endpoint("slow"), now).expect_err("it is busy")).collect();
        // 32 at a time, 16 s each: one every half second.
        assert!((5.4..5.6).contains(&pauses[0].as_secs_f64()), "{:?}", pauses[0]);
        assert!((54.0..56.0).contains(&pauses[99].as_secs_f64()), "{:?}", pauses[99]);
        assert_eq!(pauses[999], PAUSE_MAX);
        assert!(places.take(endpoint("quick"), now).is_ok());
    }

    #[tokio::test]
    async fn endpoint_is_not_flooded() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        let held = fill(&places, &endpoint("a"), now);
        let mut permits = Vec::new();
        for place in &held {
            permits.extend(futures::FutureExt::now_or_never(place.permit()));
        }
        assert_eq!((held.len(), permits.len()), (ENDPOINT_PLACES_MAX, DELIVERIES_MAX));
    }
}
