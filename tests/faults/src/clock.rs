//! Clocks of single processes that can be stepped: a small library, loaded before all others, adds to the calendar what
//! a file says. Journals read the system's own clock, and stay true.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the library is made of.
const SOURCE: &str = include_str!("clock.c");

/// The clock of a process.
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// Prepares a clock that is right; `None` where there is no C compiler.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn prepare(folder: &Path, process: &str) -> io::Result<Option<Self>> {
        let (source, library) = (folder.join("clock.c"), folder.join("libclock.so"));
        if !library.exists() {
            std::fs::write(&source, SOURCE)?;
            let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
            if !made.is_ok_and(|status| status.success()) {
                eprintln!("skipped: steps of clocks need a C compiler");
                return Ok(None);
            }
        }
        let clock = Self { library, offset: folder.join(format!("{process}.clock")) };
        clock.step(0)?;
        Ok(Some(clock))
    }

    /// Steps the clock to so many seconds off the right time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn step(&self, seconds: i64) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        // In place: the process has the file mapped.
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&self.offset)?;
        file.write_all_at(&seconds.to_ne_bytes(), 0)
    }

    /// The variables of a process that lives by this clock.
    pub fn variables(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.display().to_string();
        [("LD_PRELOAD".into(), text(&self.library)), ("JETLANE_FAULTS_CLOCK".into(), text(&self.offset))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stepped_clock_is_off_for_its_process_and_right_again_afterwards() {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(clock) = Clock::prepare(folder.path(), "p").expect("written") else { return };
        // Not the shell's own `date`: a program that asks by the C library.
        let year = || {
            let asked = Command::new("date").arg("+%Y").envs(clock.variables()).output().expect("runs");
            String::from_utf8_lossy(&asked.stdout).trim().parse::<u32>().expect("a year")
        };
        let now = year();
        clock.step(50 * 366 * 86_400).expect("written");
        assert!(year() >= now + 50);
        clock.step(0).expect("written");
        assert_eq!(year(), now);
    }
}
