//! The data folder of a server, held by a lock.

use super::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for the lock: a server whose parent has just ended may still be on its way out.
const LOCK_TIME_MAX: Duration = Duration::from_secs(3);
/// The pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The data folder of a server, held by a lock. Two servers in one folder would destroy its streams.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) dir: PathBuf,
    pub(super) temporary: bool,
    /// Shared with the server and its watchdog: it is free again when all have ended.
    pub(super) lock: File,
}

impl Data {
    /// Makes and locks the folder; without one, a temporary one.
    pub(super) async fn open(dir: Option<&Path>) -> Result<Self, Error> {
        let temporary = dir.is_none();
        let dir = match dir {
            None => make_temporary()?,
            Some(dir) => make(dir)?,
        };
        let lock = File::create(dir.join("nats-server.lock"));
        let lock = lock.map_err(|source| Error::Data { dir: dir.clone(), source })?;
        for _ in 0..LOCK_TIME_MAX.as_millis() / LOCK_PAUSE.as_millis() {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { dir, temporary, lock }),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
                Err(fs::TryLockError::Error(source)) => return Err(Error::Data { dir, source }),
            }
        }
        Err(Error::DataInUse { dir })
    }

    pub(super) fn remove_if_temporary(&self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            tracing::debug!(%error, dir = %self.dir.display(), "A temporary data folder stays behind.");
        }
    }
}

fn make(dir: &Path) -> Result<PathBuf, Error> {
    // The server is told an absolute path: it may run in another folder.
    let made = fs::create_dir_all(dir).and_then(|()| fs::canonicalize(dir));
    made.map_err(|source| Error::Data { dir: dir.into(), source })
}

fn make_temporary() -> Result<PathBuf, Error> {
    let made = tempfile::Builder::new().prefix("jetlane-nats-").tempdir();
    made.map(tempfile::TempDir::keep).map_err(|source| Error::Data { dir: std::env::temp_dir(), source })
}
