//! Look-ups of names, bounded: the system's resolver blocks a thread for as long as it likes.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a look-up may take.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Look-ups of one client at a time, each on a thread of its own: an eighth of the runtime's blocking threads.
const LOOKUPS_MAX: usize = 64;
/// Look-ups of one name at a time: a name whose servers do not answer leaves threads to the others.
const LOOKUPS_OF_A_NAME_MAX: usize = 4;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;

/// The look-ups of one client.
#[derive(Debug, Clone)]
pub(super) struct Lookups {
    all: Arc<Semaphore>,
    of_names: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(LOOKUPS_MAX)), of_names: Arc::default() }
    }
}

/// A name that is being looked up or waits for it. Only such names are remembered.
struct Name {
    lookups: Lookups,
    name: String,
    permits: Option<Arc<Semaphore>>,
}

impl Drop for Name {
    fn drop(&mut self) {
        drop(self.permits.take());
        let mut names = self.lookups.of_names.lock().expect("nobody panics while holding the names");
        // Others that look it up hold the permits, too; they are cloned under this lock alone.
        if names.get(&self.name).is_some_and(|permits| Arc::strong_count(permits) == 1) {
            names.remove(&self.name);
        }
    }
}

/// What a look-up holds until the resolver has returned, however long its caller waits.
struct Turn {
    // Dropped in this order: a permit holds its semaphore.
    _of_name: OwnedSemaphorePermit,
    _name: Name,
    _all: OwnedSemaphorePermit,
}

impl Lookups {
    /// Looks a name up within [`LOOKUP_TIMEOUT`].
    pub(super) async fn find(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let name = name.to_owned();
        self.within(name.clone(), move || {
            let found = (name.as_str(), 0).to_socket_addrs()?;
            Ok(found.take(ADDRESSES_MAX).collect())
        })
        .await
    }

    async fn within<T: Send + 'static>(
        &self,
        name: String,
        resolve: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let found = async {
            let turn = self.turn(name.clone()).await;
            let found = tokio::task::spawn_blocking(move || {
                let found = resolve();
                drop(turn);
                found
            });
            found.await.map_err(io::Error::other)?
        };
        match tokio::time::timeout(LOOKUP_TIMEOUT, found).await {
            Ok(found) => found,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the name {name} was not found within {} s", LOOKUP_TIMEOUT.as_secs()),
            )),
        }
    }

    async fn turn(&self, name: String) -> Turn {
        let permits = {
            let mut names = self.of_names.lock().expect("nobody panics while holding the names");
            let permits = names.entry(name.clone()).or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS_OF_A_NAME_MAX)));
            Arc::clone(permits)
        };
        let name = Name { lookups: self.clone(), name, permits: Some(Arc::clone(&permits)) };
        let of_name = permits.acquire_owned().await.expect("nobody closes the permits of a name");
        let all = Arc::clone(&self.all).acquire_owned().await.expect("nobody closes the permits");
        Turn { _of_name: of_name, _name: name, _all: all }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn name_whose_look_up_hangs_ends_in_time_and_keeps_no_other_waiting() {
        let lookups = Lookups::default();
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        let mut slow = JoinSet::new();
        for _ in 0..2 * LOOKUPS_MAX {
            let (lookups, hang) = (lookups.clone(), hang.clone());
            // Ends with the sender, as a resolver that has given up.
            let resolve = move || Ok(hang.lock().is_ok_and(|hang| hang.recv().is_err()));
            slow.spawn(async move { lookups.within("slow.test".into(), resolve).await });
        }
        // All of them have begun.
        tokio::task::yield_now().await;
        assert_eq!(lookups.within("other.test".into(), || Ok(7)).await.unwrap(), 7);
        assert!(slow.try_join_next().is_none(), "the other name waited for the slow one");
        while let Some(ended) = slow.join_next().await {
            assert_eq!(ended.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        drop(release);
        // What hung returns, and the name is looked up again.
        assert_eq!(lookups.within("slow.test".into(), || Ok(1)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn names_are_forgotten_once_they_are_found() {
        let lookups = Lookups::default();
        for number in 0..100 {
            assert_eq!(lookups.within(format!("{number}.test"), || Ok(())).await.ok(), Some(()));
        }
        assert!(lookups.of_names.lock().unwrap().is_empty());
        assert!(!lookups.find("localhost").await.unwrap().is_empty());
    }
}
