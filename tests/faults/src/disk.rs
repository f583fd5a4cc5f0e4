//! A small disk in memory that can be made full and free again.

use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the disk holds at most while it is free.
const SIZE: &str = "3g";

/// A mounted disk; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    mount: PathBuf,
}

impl Disk {
    /// Mounts a disk; `None` where that cannot be done here.
    pub fn mount(folder: &Path) -> Option<Self> {
        let mount = folder.join("disk");
        let mounted = std::fs::create_dir_all(&mount).map_err(anyhow::Error::from).and_then(|()| {
            run("mount", &["-t", "tmpfs", "-o", &format!("size={SIZE}"), "jetlane-faults", &text(&mount)])
        });
        if let Err(error) = mounted {
            eprintln!("skipped: a full disk needs root: {error:#}");
            return None;
        }
        Some(Self { mount })
    }

    /// A folder on it.
    pub fn folder(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// Leaves no room beyond what it holds.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn fill(&self) -> anyhow::Result<()> {
        /// Files grow while it is filled.
        const TRIES_MAX: usize = 10;
        let mut tries = 1;
        loop {
            let asked = Command::new("df").args(["-B1", "--output=used"]).arg(&self.mount).output()?;
            let said = String::from_utf8_lossy(&asked.stdout).into_owned();
            let used = said.lines().last().map(str::trim).context("df says nothing")?;
            match run("mount", &["-o", &format!("remount,size={used}"), &text(&self.mount)]) {
                Err(_) if tries < TRIES_MAX => tries += 1,
                other => return other,
            }
        }
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn free(&self) -> anyhow::Result<()> {
        run("mount", &["-o", &format!("remount,size={SIZE}"), &text(&self.mount)])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the servers may still be ending.
        if let Err(error) = run("umount", &["-l", &text(&self.mount)]) {
            eprintln!("{} stays mounted: {error:#}", self.mount.display());
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("no {program}"))?;
    anyhow::ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_refuses_what_a_free_one_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(disk) = Disk::mount(folder.path()) else { return };
        let write = || std::fs::write(disk.mount.join("bytes"), vec![1; 1 << 20]);
        write().expect("there is room");
        disk.fill().expect("it is full");
        assert!(std::fs::write(disk.mount.join("more"), vec![1; 1 << 20]).is_err());
        disk.free().expect("there is room again");
        write().expect("there is room");
    }
}
