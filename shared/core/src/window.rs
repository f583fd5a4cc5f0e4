//! How much of each flow is read: enough for the policy to choose from, within the bounds on memory
//! (design, decision 2). Room is counted in tasks; a pull asks for messages.

use crate::entry::FlowId;
use std::collections::BTreeSet;

/// The most tasks of one flow.
pub const FLOW_TASKS_MAX: u32 = 1024;
/// The tasks of one flow that it gets however many flows there are, where the bounds allow.
pub const FLOW_TASKS_MIN: u32 = 64;
/// What an idle flow asks for. Its window doubles each time that nearly all it asked for has come,
/// so that a thousand idle flows do not reserve what the busy ones need.
pub const FLOW_TASKS_IDLE: u32 = 16;
/// The most bytes of one flow.
pub const FLOW_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The most tasks of a process.
pub const PROCESS_TASKS_MAX: u32 = 16_384;
/// The most bytes of a process.
pub const PROCESS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The size of a task that is assumed of a flow of which none has come.
const BYTES_ASSUMED: u64 = 1024;

/// What the process leaves to one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Tasks.
    pub tasks: u32,
    /// Bytes.
    pub bytes: u64,
}

impl Default for Share {
    /// A process with one queue.
    fn default() -> Self {
        Self { tasks: PROCESS_TASKS_MAX, bytes: PROCESS_BYTES_MAX }
    }
}

/// What to ask a flow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
}

/// The windows of a queue's flows.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    flows: Vec<Window>,
    open: u32,
    share: Share,
    /// Held and asked for, in all flows.
    tasks: u64,
    bytes: u64,
    /// Flows to look at.
    dirty: BTreeSet<FlowId>,
    /// Flows that got less than they could use, for lack of the queue's share.
    short: BTreeSet<FlowId>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    is_open: bool,
    /// Tasks held, and their bytes.
    tasks: u32,
    bytes: u64,
    /// Messages asked for.
    requested: u32,
    /// The most tasks that one of its messages has had.
    per_message: u32,
    /// Tasks that it may have for now: from [`FLOW_TASKS_IDLE`] up.
    limit: u32,
    /// The mean size of its tasks, moving.
    mean_bytes: u64,
}

impl Window {
    fn committed(&self) -> u64 {
        u64::from(self.tasks) + u64::from(self.requested) * u64::from(self.per_message)
    }

    fn committed_bytes(&self) -> u64 {
        self.bytes + u64::from(self.requested) * u64::from(self.per_message) * self.mean_bytes
    }
}

impl Windows {
    pub(crate) fn open(&mut self, flow: FlowId) {
        let place = flow.0 as usize;
        if place >= self.flows.len() {
            self.flows.resize(place + 1, Window::default());
        }
        let window = &mut self.flows[place];
        if !window.is_open {
            self.open += 1;
            let (tasks, bytes) = (window.tasks, window.bytes);
            *window = Window {
                is_open: true,
                tasks,
                bytes,
                per_message: 1,
                limit: FLOW_TASKS_IDLE,
                mean_bytes: BYTES_ASSUMED,
                requested: 0,
            };
            self.dirty.insert(flow);
        }
    }

    pub(crate) fn close(&mut self, flow: FlowId) {
        self.change(flow, |window| {
            window.requested = 0;
            window.is_open = false;
        });
        self.dirty.remove(&flow);
        self.short.remove(&flow);
        self.open = self.flows.iter().filter(|window| window.is_open).count() as u32;
    }

    pub(crate) fn share(&mut self, share: Share) {
        self.share = share;
        self.dirty.append(&mut self.short);
    }

    pub(crate) fn committed(&self) -> Share {
        Share { tasks: u32::try_from(self.tasks).unwrap_or(u32::MAX), bytes: self.bytes }
    }

    pub(crate) fn message_taken(&mut self, flow: FlowId, tasks: u32) {
        self.change(flow, |window| {
            window.requested = window.requested.saturating_sub(1);
            window.per_message = window.per_message.max(tasks).max(1);
            // Nearly all that was asked for has come: there is probably more.
            if u64::from(window.requested) * u64::from(window.per_message) * 4 <= u64::from(window.limit) {
                window.limit = window.limit.saturating_mul(2).min(FLOW_TASKS_MAX);
            }
        });
    }

    pub(crate) fn pull_ended(&mut self, flow: FlowId, messages: u32) {
        self.change(flow, |window| {
            window.requested = window.requested.saturating_sub(messages);
            if messages > 0 {
                // The flow was at its end.
                window.limit = window.tasks.clamp(FLOW_TASKS_IDLE, FLOW_TASKS_MAX);
            }
        });
    }

    pub(crate) fn held(&mut self, flow: FlowId, bytes: u32) {
        self.change(flow, |window| {
            window.tasks += 1;
            window.bytes += u64::from(bytes);
            window.mean_bytes = (window.mean_bytes * 7 + u64::from(bytes)).div_ceil(8).max(1);
        });
    }

    pub(crate) fn released(&mut self, flow: FlowId, bytes: u32) {
        self.change(flow, |window| {
            window.tasks = window.tasks.saturating_sub(1);
            window.bytes = window.bytes.saturating_sub(u64::from(bytes));
        });
        if let Some(short) = self.short.pop_first() {
            self.dirty.insert(short);
        }
    }

    /// The next flow that can use more, and how much. What is returned counts as asked for.
    pub(crate) fn next_pull(&mut self) -> Option<(FlowId, Room)> {
        while let Some(flow) = self.dirty.pop_first() {
            let Some(room) = self.room(flow) else { continue };
            self.change(flow, |window| window.requested += room.messages);
            self.dirty.remove(&flow);
            return Some((flow, room));
        }
        None
    }

    fn room(&mut self, flow: FlowId) -> Option<Room> {
        let window = *self.flows.get(flow.0 as usize).filter(|window| window.is_open)?;
        let per_message = u64::from(window.per_message);
        // The queue's share is split between its flows, within the bounds of one flow.
        let target = (self.share.tasks / self.open.max(1)).clamp(FLOW_TASKS_MIN, FLOW_TASKS_MAX).min(window.limit);
        let own_bytes = FLOW_BYTES_MAX.saturating_sub(window.committed_bytes());
        let left_bytes = self.share.bytes.saturating_sub(self.bytes);
        let left_tasks = u64::from(self.share.tasks).saturating_sub(self.tasks);
        let own = u64::from(target).saturating_sub(window.committed()).min(own_bytes / window.mean_bytes);
        let free = own.min(left_tasks).min(left_bytes / window.mean_bytes);
        if free < own {
            self.short.insert(flow);
        }
        // A quarter of what it can hold at once: not one pull for each task that leaves.
        let worth = u64::from(target).min(FLOW_BYTES_MAX / window.mean_bytes) / 4;
        let messages = if window.committed() == 0 {
            // The bounds win, but a flow always gets one message.
            (free / per_message).max(1)
        } else if free >= worth.max(per_message) {
            free / per_message
        } else {
            return None;
        };
        let bytes = own_bytes.min(left_bytes);
        Some(Room { messages: u32::try_from(messages).unwrap_or(FLOW_TASKS_MAX), bytes })
    }

    fn change(&mut self, flow: FlowId, change: impl FnOnce(&mut Window)) {
        let Some(window) = self.flows.get_mut(flow.0 as usize) else { return };
        self.tasks -= window.committed();
        self.bytes -= window.committed_bytes();
        change(window);
        self.tasks += window.committed();
        self.bytes += window.committed_bytes();
        if window.is_open {
            self.dirty.insert(flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLOW: FlowId = FlowId(0);

    fn one_flow() -> Windows {
        let mut windows = Windows::default();
        windows.open(FLOW);
        windows
    }

    /// Answers every pull in full, as a flow with an endless backlog does, until nothing more is asked for.
    fn fill(windows: &mut Windows, bytes: u32) -> u32 {
        let mut held = 0;
        while let Some((flow, room)) = windows.next_pull() {
            let mut arrived = 0;
            for _ in 0..room.messages {
                // The server ends a pull at its bound on bytes, and never under one message.
                if arrived > 0 && arrived + u64::from(bytes) > room.bytes {
                    break;
                }
                arrived += u64::from(bytes);
                held += 1;
                windows.message_taken(flow, 1);
                windows.held(flow, bytes);
            }
            let rest = windows.flows[flow.0 as usize].requested;
            let (tasks, limit) = (windows.flows[0].tasks, windows.flows[0].limit);
            windows.pull_ended(flow, rest);
            if rest > 0 {
                // A backlog that byte bounds cut off is not at its end.
                windows.flows[0].limit = limit.max(tasks);
                windows.dirty.clear();
            }
        }
        held
    }

    #[test]
    fn an_idle_flow_asks_for_little_and_a_busy_one_for_its_whole_window() {
        let mut windows = one_flow();
        let (_, first) = windows.next_pull().expect("an open flow asks");
        assert_eq!(first.messages, FLOW_TASKS_IDLE);
        assert_eq!(windows.next_pull(), None);
        assert_eq!(fill(&mut one_flow(), 200), FLOW_TASKS_MAX);
    }

    #[test]
    fn a_window_of_large_bodies_is_bounded_by_bytes() {
        let body = 512 * 1024;
        let held = fill(&mut one_flow(), body);
        assert!(u64::from(held) * u64::from(body) <= FLOW_BYTES_MAX + u64::from(body), "{held} tasks held");
        assert!(held >= 4, "{held} tasks held");
    }

    #[test]
    fn a_flow_always_gets_one_message_however_little_is_left() {
        let mut windows = one_flow();
        windows.share(Share { tasks: 0, bytes: 0 });
        assert_eq!(windows.next_pull().map(|(_, room)| room.messages), Some(1));
        assert_eq!(windows.next_pull(), None);
    }

    #[test]
    fn a_pull_that_ends_unanswered_is_asked_again() {
        let mut windows = one_flow();
        let (_, room) = windows.next_pull().expect("asks");
        windows.pull_ended(FLOW, room.messages);
        assert_eq!(windows.next_pull().map(|(_, again)| again), Some(room));
    }

    #[test]
    fn room_is_counted_in_tasks_and_asked_for_in_messages() {
        let mut windows = one_flow();
        let (_, room) = windows.next_pull().expect("asks");
        windows.message_taken(FLOW, 8);
        (0..8).for_each(|_| windows.held(FLOW, 200));
        windows.pull_ended(FLOW, room.messages - 1);
        let (_, next) = windows.next_pull().expect("asks");
        assert_eq!(next.messages, (FLOW_TASKS_IDLE - 8) / 8);
    }

    #[test]
    fn a_full_window_is_topped_up_by_a_quarter_not_by_one() {
        let mut windows = one_flow();
        fill(&mut windows, 200);
        let mut released = 0;
        while windows.next_pull().is_none() {
            windows.released(FLOW, 200);
            released += 1;
        }
        assert_eq!(released, FLOW_TASKS_MAX / 4);
    }

    #[test]
    fn a_flow_that_got_less_for_lack_of_share_is_looked_at_when_some_comes_free() {
        let mut windows = one_flow();
        windows.share(Share { tasks: 64, bytes: PROCESS_BYTES_MAX });
        windows.open(FlowId(1));
        for flow in [FLOW, FlowId(1)] {
            windows.next_pull();
            for _ in 0..32 {
                windows.message_taken(flow, 1);
                windows.held(flow, 100);
                while windows.next_pull().is_some() {}
            }
        }
        assert_eq!(windows.next_pull(), None);
        for _ in 0..32 {
            windows.released(FlowId(1), 100);
        }
        let asked: Vec<_> = std::iter::from_fn(|| windows.next_pull()).map(|(flow, _)| flow).collect();
        assert!(asked.contains(&FLOW), "the other flow was forgotten: {asked:?}");
    }

    proptest! {
        #[test]
        fn what_is_held_and_asked_for_stays_within_the_share_but_for_one_message_a_flow(
            steps in proptest::collection::vec((0..8u32, 0..5u8, 1..4000u32), 1..400),
        ) {
            let mut windows = Windows::default();
            let share = Share { tasks: 300, bytes: 100_000 };
            windows.share(share);
            (0..8).for_each(|flow| windows.open(FlowId(flow)));
            for (flow, step, bytes) in steps {
                let flow = FlowId(flow);
                let window = windows.flows[flow.0 as usize];
                match step {
                    0 | 1 if window.requested > 0 => {
                        windows.message_taken(flow, 1);
                        windows.held(flow, bytes);
                    }
                    2 => windows.pull_ended(flow, window.requested),
                    3 if window.tasks > 0 => windows.released(flow, (window.bytes / u64::from(window.tasks)) as u32),
                    _ => {}
                }
                while windows.next_pull().is_some() {}
                let sum: u64 = windows.flows.iter().map(Window::committed).sum();
                prop_assert_eq!(sum, windows.tasks);
                prop_assert_eq!(windows.flows.iter().map(Window::committed_bytes).sum::<u64>(), windows.bytes);
                prop_assert!(windows.tasks <= u64::from(share.tasks) + 8);
                prop_assert!(windows.flows.iter().all(|w| w.committed() <= u64::from(FLOW_TASKS_MAX)));
                prop_assert!(windows.flows.iter().all(|w| w.committed() > 0), "a flow stands still");
            }
        }
    }
}
