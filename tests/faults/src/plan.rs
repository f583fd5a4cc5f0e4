//! The schedule of faults: a pure function of a seed, a length and the number of servers.

use crate::chance::Chance;
use crate::proxy::Link;
use crate::servers::Apart;
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::time::Duration;

/// Classes of faults that can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Class {
    /// All of them.
    All,
    /// Processes killed by SIGKILL.
    Kill,
    /// Processes stopped by SIGSTOP and continued.
    Stop,
    /// Processes ended by SIGTERM and started again.
    Restart,
    /// Connections cut, slow, half-open, one-way or silent.
    Link,
    /// Servers killed, restarted, frozen and wiped; elections.
    Server,
    /// Messages twice, hostile bytes, handlers that end their process.
    Message,
    /// Streams at their limits, streams and consumers deleted.
    Stream,
    /// A disk that is full.
    Disk,
    /// Clients that read too slowly.
    Slow,
    /// Clocks of submitters stepped.
    Clock,
    /// Processor time taken away.
    Load,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Kills a process, which starts again after this time.
    Kill(&'static str, Duration),
    /// Stops a process for this time.
    Stop(&'static str, Duration),
    /// Ends a process gracefully and starts it again.
    Restart(&'static str),
    /// Restarts all processes, one after the other, with a frame of a version that nobody knows among their tasks.
    RollingRestart,
    /// Disturbs the connections of a process for this time.
    Link(&'static str, Link, Duration),
    /// Kills a server, which starts again after this time.
    ServerKill(usize, Duration),
    /// Restarts a server gracefully.
    ServerRestart(usize),
    /// Freezes a server for this time.
    ServerFreeze(usize, Duration),
    /// Kills all servers at once.
    ServersKill(Duration),
    /// Kills a server and removes its data.
    ServerWipe(usize),
    /// Kills the server that leads a stream.
    LeaderKill(&'static str, Duration),
    /// Makes the leader of a stream step down.
    StepDown(&'static str),
    /// Makes the leader of the cluster step down.
    MetaStepDown,
    /// Breaks routes between servers for this time.
    Partition(Apart, Link, Duration),
    /// Fills the disk of the first server for this time, and restarts the server.
    DiskFull(Duration),
    /// Deletes a stream that holds no work: the scheduler makes it anew.
    StreamDelete(&'static str),
    /// Deletes a stream that holds work: what lies in it is lost, and the scheduler makes it anew.
    WorkDelete(&'static str),
    /// Makes a process read slowly for this time, while much is sent to it.
    SlowConsumer(&'static str, Duration),
    /// Steps the clock of a submitter by so many seconds for this time.
    ClockStep(&'static str, i64, Duration),
    /// Publishes tasks twice, with message ids that the stream does not recognise.
    Duplicate,
    /// Submits a task that ends the process of its handler.
    Deadly,
    /// Publishes hostile bytes on all subjects.
    Hostile,
    /// Limits the completions to what is there for this time.
    DoneFull(Duration),
    /// Deletes a consumer that the scheduler makes anew.
    ConsumerDelete,
    /// Keeps the processors busy for this time.
    Load(Duration),
}

impl Fault {
    /// Whether it takes a server or its disk away: such faults come one at a time.
    pub fn is_of_servers(&self) -> bool {
        matches!(
            self,
            Self::ServerKill(..)
                | Self::ServerRestart(_)
                | Self::ServerFreeze(..)
                | Self::ServersKill(_)
                | Self::ServerWipe(_)
                | Self::LeaderKill(..)
                | Self::StepDown(_)
                | Self::MetaStepDown
                | Self::Partition(..)
                | Self::DiskFull(_)
                | Self::StreamDelete(_)
                | Self::WorkDelete(_)
        )
    }
}

/// A fault and its moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// When, from the beginning of the soak.
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

/// The processes that faults hit, and how often in proportion.
const TARGETS: &[(&str, u64)] = &[
    ("dispatcher-0", 4),
    ("dispatcher-1", 4),
    ("executor-0", 4),
    ("executor-1", 4),
    ("executor-2", 4),
    ("worker", 2),
    ("callback", 2),
    ("reference", 1),
    ("receiver", 1),
    ("producer", 1),
    ("outsider", 1),
];
/// Streams whose leaders are killed or step down.
const STREAMS: &[&str] = &["JETLANE_TASKS", "JETLANE_TIME", "JETLANE_LANES", "JETLANE_DONE"];

/// Streams whose messages the scheduler does not need, and those of buckets that are written anew.
const SPARE: &[&str] = &["JETLANE_ADVISORIES", "KV_jetlane_leases", "KV_jetlane_registry"];

/// Streams that hold work.
const HELD: &[&str] = &["JETLANE_TASKS", "JETLANE_TIME", "JETLANE_LANES"];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// When the first fault comes.
const FIRST: Duration = ms(2_000);
/// The time before the end in which no fault begins.
const LAST: Duration = ms(2_000);
/// The pause between two faults of processes.
const PROCESS_PAUSE_MS: (u64, u64) = (900, 2_200);
/// The pause between two faults of messages.
const MESSAGE_PAUSE_MS: (u64, u64) = (1_500, 4_500);
/// The pause after a fault of a server: an election, and time in which tasks flow.
const SERVER_PAUSE_MS: (u64, u64) = (7_000, 12_000);

/// The shortest soak in which a stream that holds work is deleted. The checker takes what was accepted before that for
/// lost by the fault, so it comes once, and so early that most of the soak is judged without it.
const WORK_DELETE_LENGTH_MIN: Duration = Duration::from_secs(300);
/// When that stream is deleted, in percent of the soak.
const WORK_DELETE_PERCENT: (u64, u64) = (5, 15);

/// What is planned for a soak.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its seed.
    pub seed: u64,
    /// How long faults are injected.
    pub length: Duration,
    /// One or three servers.
    pub servers: usize,
    /// Which faults.
    pub classes: Vec<Class>,
}

impl Wish {
    fn wants(&self, class: Class) -> bool {
        self.classes.contains(&class) || self.classes.contains(&Class::All)
    }

    /// Plans the soak.
    pub fn plan(&self) -> Vec<Planned> {
        let mut planned = self.processes(&mut Chance::new(self.seed));
        planned.extend(self.servers(&mut Chance::new(self.seed ^ 1)));
        planned.extend(self.messages(&mut Chance::new(self.seed ^ 2)));
        planned.extend(self.work_delete(&mut Chance::new(self.seed ^ 3)));
        planned.sort_by_key(|planned| planned.at);
        planned
    }

    /// Faults of processes: several at a time, but one process has one at a time, and one of each role is well.
    fn processes(&self, chance: &mut Chance) -> Vec<Planned> {
        let classes = [Class::Kill, Class::Stop, Class::Restart, Class::Link];
        let classes: Vec<Class> = classes.into_iter().filter(|class| self.wants(*class)).collect();
        let mut planned = Vec::new();
        let mut busy: BTreeMap<&'static str, Duration> = BTreeMap::new();
        let mut at = FIRST;
        while at + LAST < self.length && !classes.is_empty() {
            let free: Vec<&'static str> = TARGETS
                .iter()
                .filter(|(target, _)| busy.get(target).is_none_or(|until| *until < at) && has_peer(target, &busy, at))
                .flat_map(|(target, weight)| std::iter::repeat_n(*target, usize::try_from(*weight).unwrap_or(1)))
                .collect();
            if !free.is_empty() {
                let target = chance.pick(&free);
                let (fault, lasts) = process_fault(chance.pick(&classes), target, chance);
                busy.insert(target, at + lasts + ms(1_500));
                planned.push(Planned { at, fault });
            }
            at += ms(chance.between(PROCESS_PAUSE_MS.0, PROCESS_PAUSE_MS.1));
        }
        planned
    }

    /// Faults of servers: one at a time.
    fn servers(&self, chance: &mut Chance) -> Vec<Planned> {
        let mut planned = Vec::new();
        let mut at = FIRST + ms(3_000);
        while at + LAST < self.length && self.wants(Class::Server) {
            let number = usize::try_from(chance.between(0, self.servers as u64 - 1)).unwrap_or(0);
            let short = ms(chance.between(300, 5_000));
            let drawn = chance.between(0, 99);
            let (fault, lasts) = if self.servers == 1 {
                match drawn {
                    0..=44 => (Fault::ServerKill(0, short), short),
                    45..=64 => (Fault::ServerRestart(0), ms(1_000)),
                    65..=79 => (Fault::ServerFreeze(0, short), short),
                    80..=86 if self.wants(Class::Disk) => (Fault::DiskFull(short), short),
                    87..=94 if self.wants(Class::Stream) => (Fault::StreamDelete(chance.pick(SPARE)), ms(0)),
                    _ => (Fault::ServerFreeze(0, ms(12_000)), ms(12_000)),
                }
            } else {
                match drawn {
                    0..=15 => (Fault::StepDown(chance.pick(STREAMS)), ms(0)),
                    16..=23 => (Fault::MetaStepDown, ms(0)),
                    24..=41 => (Fault::LeaderKill(chance.pick(STREAMS), short), short),
                    42..=53 => (Fault::ServerKill(number, short), short),
                    54..=61 => (Fault::ServerRestart(number), ms(1_000)),
                    62..=69 => (Fault::ServerFreeze(number, short), short),
                    70..=72 => (Fault::ServerFreeze(number, ms(12_000)), ms(12_000)),
                    73..=75 => (Fault::ServersKill(short), short),
                    76..=87 => {
                        let links = [Link::Cut, Link::BlackHole, Link::OnlyDown, Link::OnlyUp];
                        let aparts = [Apart::One(number), Apart::One(number), Apart::Pair(number)];
                        let lasts = short + ms(2_000);
                        (Fault::Partition(chance.pick(&aparts), chance.pick(&links), lasts), lasts)
                    }
                    88..=92 if self.wants(Class::Disk) => (Fault::DiskFull(short), short),
                    93..=95 if self.wants(Class::Stream) => (Fault::StreamDelete(chance.pick(SPARE)), ms(0)),
                    _ => (Fault::ServerWipe(number), ms(3_000)),
                }
            };
            planned.push(Planned { at, fault });
            at += lasts + ms(chance.between(SERVER_PAUSE_MS.0, SERVER_PAUSE_MS.1));
        }
        planned
    }

    /// The loss of a stream that holds work.
    fn work_delete(&self, chance: &mut Chance) -> Option<Planned> {
        let is_due = self.wants(Class::Stream) && self.length >= WORK_DELETE_LENGTH_MIN;
        let percent = chance.between(WORK_DELETE_PERCENT.0, WORK_DELETE_PERCENT.1);
        let at = self.length * u32::try_from(percent).unwrap_or(0) / 100;
        is_due.then(|| Planned { at, fault: Fault::WorkDelete(chance.pick(HELD)) })
    }

    /// Faults of messages and streams, and load.
    fn messages(&self, chance: &mut Chance) -> Vec<Planned> {
        let mut planned = Vec::new();
        let mut at = FIRST + ms(1_000);
        while at + LAST < self.length {
            let fault = match chance.between(0, 99) {
                0..=24 if self.wants(Class::Message) => Some(Fault::Duplicate),
                25..=39 if self.wants(Class::Message) => Some(Fault::Deadly),
                40..=64 if self.wants(Class::Message) => Some(Fault::Hostile),
                65..=72 if self.wants(Class::Clock) => {
                    let steps = [-3_600, -90, -5, 5, 90, 3_600];
                    let time = ms(chance.between(2_000, 8_000));
                    Some(Fault::ClockStep(chance.pick(&["producer", "outsider"]), chance.pick(&steps), time))
                }
                73..=79 if self.wants(Class::Slow) => {
                    let names = ["dispatcher-0", "dispatcher-1", "executor-0", "executor-1", "worker", "producer"];
                    Some(Fault::SlowConsumer(chance.pick(&names), ms(chance.between(4_000, 12_000))))
                }
                80..=84 if self.wants(Class::Stream) => Some(Fault::DoneFull(ms(chance.between(1_000, 6_000)))),
                85..=91 if self.wants(Class::Stream) => Some(Fault::ConsumerDelete),
                92..=95 if self.wants(Class::Load) => Some(Fault::Load(ms(chance.between(1_000, 4_000)))),
                96..=97 if self.wants(Class::Restart) => Some(Fault::RollingRestart),
                _ => None,
            };
            planned.extend(fault.map(|fault| Planned { at, fault }));
            at += ms(chance.between(MESSAGE_PAUSE_MS.0, MESSAGE_PAUSE_MS.1));
        }
        planned
    }
}

/// Whether another process of the same role is well, or the role has one process alone.
fn has_peer(target: &str, busy: &BTreeMap<&'static str, Duration>, at: Duration) -> bool {
    let role = |name: &str| name.split('-').next().unwrap_or_default().to_owned();
    let mut peers = TARGETS.iter().filter(|(name, _)| role(name) == role(target) && *name != target).peekable();
    peers.peek().is_none() || peers.any(|(name, _)| busy.get(name).is_none_or(|until| *until < at))
}

fn process_fault(class: Class, target: &'static str, chance: &mut Chance) -> (Fault, Duration) {
    // A quarter lasts longer than a lease of 10 s.
    let lasts = if chance.percent(25) { ms(chance.between(12_000, 18_000)) } else { ms(chance.between(300, 4_000)) };
    match class {
        Class::Stop => (Fault::Stop(target, lasts), lasts),
        Class::Restart => (Fault::Restart(target), ms(7_000)),
        // The receiver is reached directly.
        Class::Link if target != "receiver" => {
            let slow = Link::Slow(ms(chance.between(20, 200)));
            let links = [Link::Cut, Link::BlackHole, Link::HalfOpen, Link::OnlyDown, Link::OnlyUp, slow];
            (Fault::Link(target, chance.pick(&links), lasts), lasts)
        }
        _ => {
            let down = ms(chance.between(0, 1_500));
            (Fault::Kill(target, down), down)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(seed: u64, servers: usize) -> Wish {
        Wish { seed, length: Duration::from_secs(600), servers, classes: vec![Class::All] }
    }

    #[test]
    fn same_seed_makes_the_same_plan_and_ten_minutes_hold_over_300_faults() {
        for servers in [1, 3] {
            for seed in [1, 2, 3] {
                let plan = wish(seed, servers).plan();
                assert_eq!(plan, wish(seed, servers).plan());
                assert!(plan.len() >= 300, "{} faults", plan.len());
                assert!(plan.windows(2).all(|pair| pair[0].at <= pair[1].at));
            }
        }
        assert_ne!(wish(1, 1).plan(), wish(2, 1).plan());
    }

    #[test]
    fn stream_that_holds_work_is_deleted_once_and_early_in_a_long_soak_and_never_in_a_short_one() {
        let deleted = |wish: &Wish| -> Vec<Duration> {
            let plan = wish.plan().into_iter();
            plan.filter(|planned| matches!(planned.fault, Fault::WorkDelete(_))).map(|planned| planned.at).collect()
        };
        for seed in 0..50 {
            let at = deleted(&wish(seed, 1));
            assert!(matches!(at[..], [at] if at <= Duration::from_secs(90)), "{at:?}");
            assert!(deleted(&Wish { length: Duration::from_secs(40), ..wish(seed, 3) }).is_empty());
        }
    }

    #[test]
    fn chosen_class_is_the_only_one_planned() {
        let plan = Wish { classes: vec![Class::Kill], ..wish(1, 3) }.plan();
        assert!(plan.iter().all(|planned| matches!(planned.fault, Fault::Kill(..))));
        assert!(plan.len() > 100);
    }
}
