//! What Linux tells of a process: its resident memory and the processor time that it has used.

use serde::Serialize;
use std::time::Duration;

/// What a process has used so far. Where the system does not tell, nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Resident now.
    pub(super) resident_kb: u64,
    /// Resident at most.
    pub(super) peak_kb: u64,
    /// In the program and in the kernel, all threads.
    pub(super) cpu: Duration,
}

impl Usage {
    /// Of this process.
    pub(super) fn of_this() -> Self {
        Self::of(std::process::id())
    }

    /// Of a process by its id.
    pub(super) fn of(pid: u32) -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        Self::parse(&read("status"), &read("stat"), rustix::param::clock_ticks_per_second())
    }

    fn parse(status: &str, stat: &str, ticks_per_s: u64) -> Self {
        let kb = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
        };
        // The program's name, in parentheses, may hold anything; user and system time are fields 14 and 15.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let cpu = Duration::from_secs_f64(ticks as f64 / ticks_per_s.max(1) as f64);
        Self { resident_kb: kb("VmRSS"), peak_kb: kb("VmHWM"), cpu }
    }
}

/// Processor time a task, in microseconds: of the server, and of all else, which runs in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct PerTask {
    pub(super) server_us: f64,
    pub(super) clients_us: f64,
}

/// Reads what is used from when it is started.
pub(super) struct Meter {
    server: Option<u32>,
    begun: [Duration; 2],
}

impl Meter {
    /// Starts, for a server of this process id.
    pub(super) fn start(server: Option<u32>) -> Self {
        Self { server, begun: Self::read(server) }
    }

    fn read(server: Option<u32>) -> [Duration; 2] {
        [server.map_or(Duration::ZERO, |pid| Usage::of(pid).cpu), Usage::of_this().cpu]
    }

    /// What each of so many tasks has taken since.
    pub(super) fn per_task(&self, tasks: usize) -> PerTask {
        let now = Self::read(self.server);
        let us = |place: usize| {
            let used = now[place].saturating_sub(self.begun[place]).as_secs_f64() * 1e6;
            (used / tasks.max(1) as f64 * 10.0).round() / 10.0
        };
        PerTask { server_us: us(0), clients_us: us(1) }
    }
}

/// Kilobytes as megabytes, to a tenth.
pub(super) fn megabytes(kb: u64) -> f64 {
    (kb as f64 / 102.4).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_read_whatever_the_program_is_called() {
        let status = "Name:\ta\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n";
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 1 2";
        let usage = Usage::parse(status, stat, 100);
        assert_eq!(usage, Usage { resident_kb: 1_024, peak_kb: 2_048, cpu: Duration::from_secs(3) });
        assert_eq!(megabytes(usage.peak_kb), 2.0);
    }

    #[test]
    fn a_process_that_is_gone_uses_nothing() {
        assert_eq!(Usage::parse("", "", 100), Usage::default());
        assert!(Usage::of_this().resident_kb > 0, "this one is there");
    }
}
