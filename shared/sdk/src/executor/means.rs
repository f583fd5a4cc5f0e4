//! What an executor has: what it was told, and what of the rest the machine says.

use super::pressure::files;
use jetlane_schemas::Needs;
use jetlane_schemas::task::InvalidOption;

/// Thousandths of a core, from cores.
///
/// # Errors
/// [`InvalidOption`] names `cpu`.
pub(crate) fn milli(cores: f64) -> Result<u32, InvalidOption> {
    let milli = (cores * 1_000.0).round();
    if cores.is_finite() && (1.0..=f64::from(u32::MAX)).contains(&milli) {
        Ok(milli as u32)
    } else {
        Err(InvalidOption { option: "cpu", reason: "must be a number of cores, 0.001 or more".into() })
    }
}

/// What an executor was told that it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stated {
    pub(crate) cpu_milli: Option<u32>,
    pub(crate) memory_mib: Option<u32>,
    /// Custom resources and labels: those are never guessed.
    pub(crate) other: Needs,
}

impl Stated {
    /// The whole: what was not stated is as the machine has it.
    pub(crate) fn complete(self) -> Needs {
        Needs {
            cpu_milli: self.cpu_milli.unwrap_or_else(machine_cpu_milli),
            memory_mib: self.memory_mib.unwrap_or_else(machine_memory_mib),
            ..self.other
        }
    }
}

/// The cores that this process may use: affinity and the cgroup's quota are counted in.
fn machine_cpu_milli() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1_000)
}

/// The memory that this process may use: its cgroup's limit, or the machine's memory; none where
/// neither can be read.
fn machine_memory_mib() -> u32 {
    let bytes = files::memory_limit().or_else(files::memory_total).unwrap_or(0);
    u32::try_from(bytes / (1 << 20)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stated_counts_and_the_machine_says_the_rest() {
        let machine = Stated::default().complete();
        assert!(machine.cpu_milli >= 1_000, "{machine:?}");
        #[cfg(target_os = "linux")]
        assert!(machine.memory_mib > 64, "{machine:?}");
        let stated = Stated { cpu_milli: Some(500), ..Stated::default() }.complete();
        assert_eq!((stated.cpu_milli, stated.memory_mib), (500, machine.memory_mib));
        assert!(stated.resources.is_empty() && stated.labels.is_empty());
    }

    #[test]
    fn cores_are_counted_in_thousandths_and_nonsense_is_refused() {
        assert_eq!([milli(0.5), milli(2.0), milli(0.001)], [Ok(500), Ok(2_000), Ok(1)]);
        for cores in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert_eq!(milli(cores).expect_err("no number of cores").option, "cpu");
        }
    }
}
