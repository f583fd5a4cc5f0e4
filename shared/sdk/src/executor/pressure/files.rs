//! What Linux tells in files: cgroup v2, `/proc/meminfo`, pressure stall information. Elsewhere, and
//! where a file is missing, nothing is known.

use super::Pressure;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Where cgroup v2 is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Reads the machine's pressure. A few small files of the kernel's, no disk.
pub(crate) fn read() -> Pressure {
    let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
    let of_machine = used_of_machine(&meminfo).unwrap_or(0.0);
    let of_groups = own_groups().iter().filter_map(|group| used_of_group(group)).fold(0.0, f64::max);
    Pressure {
        memory_used: of_machine.max(of_groups),
        memory_stalled: stall("memory", "full"),
        cpu_waited: stall("cpu", "some"),
    }
}

/// The smallest limit on memory of the groups that this process is in, in bytes.
pub(crate) fn memory_limit() -> Option<u64> {
    own_groups().iter().filter_map(|group| number(&group.join("memory.max"))).min()
}

/// The machine's memory, in bytes.
pub(crate) fn memory_total() -> Option<u64> {
    field(&read_to_string("/proc/meminfo").ok()?, "MemTotal:").map(|kib| kib * 1_024)
}

/// The cgroup of this process and those around it, the innermost first.
fn own_groups() -> Vec<PathBuf> {
    let Ok(text) = read_to_string("/proc/self/cgroup") else { return Vec::new() };
    let Some(inside) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    let root = Path::new(CGROUPS);
    let own = root.join(inside);
    own.ancestors().take_while(|group| group.starts_with(root)).map(Path::to_owned).collect()
}

/// A file of the group's with one number; `max` is none.
fn number(path: &Path) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}

/// The part of a group's limit that is in use. What the kernel gives back at once when it is wanted is
/// not in use: files that nobody has touched for a while.
fn used_of_group(group: &Path) -> Option<f64> {
    let (limit, current) = (number(&group.join("memory.max"))?, number(&group.join("memory.current"))?);
    let idle = read_to_string(group.join("memory.stat")).ok().and_then(|text| field(&text, "inactive_file"));
    (limit > 0).then(|| current.saturating_sub(idle.unwrap_or(0)) as f64 / limit as f64)
}

fn used_of_machine(meminfo: &str) -> Option<f64> {
    let (total, available) = (field(meminfo, "MemTotal:")?, field(meminfo, "MemAvailable:")?);
    (total > 0).then(|| 1.0 - available as f64 / total as f64)
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Pressure stall information of the own group, or of the machine: a part of the last 10 seconds.
fn stall(of: &str, kind: &str) -> f64 {
    let own = own_groups().first().map(|group| group.join(format!("{of}.pressure")));
    let text = own.and_then(|path| read_to_string(path).ok());
    let text = text.or_else(|| read_to_string(format!("/proc/pressure/{of}")).ok());
    text.and_then(|text| stalled(&text, kind)).unwrap_or(0.0)
}

fn stalled(text: &str, kind: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    let percent: f64 = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
    Some((percent / 100.0).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let meminfo = "MemTotal:       24683520 kB\nMemFree:  1 kB\nMemAvailable:    6170880 kB\n";
        assert_eq!(used_of_machine(meminfo), Some(0.75));
        let psi = "some avg10=62.50 avg60=35.28 avg300=21.18 total=3456957862\nfull avg10=1.00 avg60=0.00 total=0\n";
        assert_eq!((stalled(psi, "some"), stalled(psi, "full")), (Some(0.625), Some(0.01)));
    }

    #[test]
    fn what_is_missing_or_malformed_is_not_known() {
        for text in ["", "MemTotal: 0 kB\nMemAvailable: 0 kB", "MemTotal: many\nMemAvailable: 1 kB"] {
            assert_eq!(used_of_machine(text), None, "{text}");
        }
        assert_eq!((stalled("", "some"), stalled("some avg10=x", "some")), (None, None));
    }

    #[test]
    fn this_machine_can_be_read() {
        let read = read();
        for part in [read.memory_used, read.memory_stalled, read.cpu_waited] {
            assert!((0.0..=1.5).contains(&part), "{read:?}");
        }
    }
}
