//! A power cut by loop images: what a disk holds at the moment at which the servers die, without their page cache.
//!
//! Each server's data lie in a filesystem of its own, in an image file. The servers are killed, the images are copied
//! while they are still mounted, and the servers start again on the copies. A kill alone proves nothing: what was
//! written and not synced survives it in the page cache.

use crate::journal::{Event, Line};
use crate::servers::Wanted;
use crate::stage::Stage;
use anyhow::Context as _;
use jetlane_bus::local::SyncInterval;
use jetlane_schemas::{header, subject};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// The size of an image.
const IMAGE_BYTES: &str = "400M";
/// The folder of a server's data in its filesystem, which has `lost+found` at its top.
const DATA: &str = "data";
/// Tasks that are accepted before the cut.
const ACCEPTED_MIN: usize = 300;
/// How long that may take.
const ACCEPT_TIME_MAX: Duration = Duration::from_secs(60);

/// What became of the tasks that were acknowledged before a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Tasks that were acknowledged.
    pub acknowledged: usize,
    /// Those of them that are gone.
    pub lost: usize,
}

/// Mounted images; unmounted when dropped.
struct Images {
    folder: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Images {
    fn image(&self, number: usize) -> PathBuf {
        self.folder.join(format!("disk-{number}.img"))
    }

    async fn mount(&mut self, number: usize) -> anyhow::Result<PathBuf> {
        let (image, mount) = (self.image(number), self.folder.join(format!("disk-{number}")));
        std::fs::create_dir_all(&mount)?;
        command("truncate", &["-s".as_ref(), IMAGE_BYTES.as_ref(), &image]).await?;
        command("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image]).await?;
        command("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mount]).await?;
        self.mounted.push(mount.clone());
        Ok(mount)
    }

    /// Copies what the image holds now, without what only the page cache has, and mounts the copy in its place.
    async fn cut(&self, number: usize) -> anyhow::Result<()> {
        let mount = self.mounted.get(number).context("there is such a disk")?;
        let copy = self.folder.join(format!("disk-{number}.copy.img"));
        command("cp", &["--sparse=always".as_ref(), &self.image(number), &copy]).await?;
        // Lazily: the lock on the data folder is still open.
        command("umount", &["-l".as_ref(), mount]).await?;
        command("mount", &["-o".as_ref(), "loop".as_ref(), &copy, mount]).await?;
        // What was never synced may be gone with its folder.
        Ok(std::fs::create_dir_all(mount.join(DATA))?)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        for mount in &self.mounted {
            let unmounted = std::process::Command::new("umount").arg("-l").arg(mount).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                eprintln!("{} stays mounted", mount.display());
            }
        }
    }
}

async fn command(program: &str, arguments: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output().await.with_context(|| format!("no {program}"))?;
    anyhow::ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Why no power cut can be made here; `None` where one can.
pub async fn unavailable(folder: &Path) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".into());
    }
    let mut images = Images { folder: folder.join("probe"), mounted: Vec::new() };
    let mounted = match std::fs::create_dir_all(&images.folder) {
        Ok(()) => images.mount(0).await.map(|_| ()),
        Err(error) => Err(error.into()),
    };
    mounted.err().map(|error| format!("{error:#}"))
}

/// Submits tasks, cuts the power of all servers, starts them again, and counts what is gone.
///
/// # Errors
/// When a step cannot be done.
pub async fn cut(program: &Path, folder: &Path, servers: usize, sync: SyncInterval) -> anyhow::Result<Outcome> {
    let mut images = Images { folder: folder.to_owned(), mounted: Vec::new() };
    for number in 0..servers {
        images.mount(number).await?;
    }
    let data = images.mounted.iter().map(|mount| mount.join(DATA)).collect();
    let mut stage = Stage::start(program, folder, &Wanted { size: servers, sync, data }).await?;
    stage.dispatcher("dispatcher-0").await?;
    stage.streams().await?;
    stage.process("dispatcher-0")?.terminate().await?;
    // Nobody announces the type: the tasks wait in the stream.
    stage.role("outsider", "outsider", &["--seed", "1", "--rate", "400"]).await?;
    let enough = |lines: &[Line]| (accepted(lines).len() >= ACCEPTED_MIN).then_some(());
    stage.until("tasks are accepted", ACCEPT_TIME_MAX, enough).await?;
    stage.servers.kill_for_good().await;
    for number in 0..servers {
        images.cut(number).await?;
    }
    stage.process("outsider")?.hold_killed();
    let acknowledged = accepted(&stage.lines()?);
    stage.servers.start_again().await?;
    let kept = match stage.admin.exists(subject::STREAM_TASKS).await? {
        true => stage.admin.header_values(subject::STREAM_TASKS, header::CE_ID).await?,
        false => BTreeSet::new(),
    };
    stage.servers.end().await;
    let lost = acknowledged.iter().filter(|id| !kept.contains(*id)).count();
    Ok(Outcome { acknowledged: acknowledged.len(), lost })
}

fn accepted(lines: &[Line]) -> BTreeSet<String> {
    let accepted = lines.iter().filter_map(|line| match &line.event {
        Event::Accept { id, .. } => Some(id.clone()),
        _ => None,
    });
    accepted.collect()
}
