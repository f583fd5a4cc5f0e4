//! The stream before the queue: a backlog for each flow, in the order of arrival, handed out against
//! the core's pulls and never beyond the window. It answers at once.
//!
//! A pull stays open until its tasks come: here no flow is polled.

use jetlane_core::FlowId;
use std::collections::VecDeque;

/// The backlogs of all flows.
#[derive(Debug)]
pub(crate) struct Backlogs {
    flows: Vec<Backlog>,
    window: u32,
}

#[derive(Debug, Clone, Default)]
struct Backlog {
    tasks: VecDeque<u32>,
    /// Asked for, and not handed out yet.
    requested: u32,
    /// Handed out, and not dispatched yet.
    held: u32,
}

impl Backlogs {
    /// Empty backlogs of so many flows; each hands out at most a window of tasks.
    pub(crate) fn new(flows: usize, window: u32) -> Self {
        Self { flows: vec![Backlog::default(); flows], window }
    }

    /// A task is stored in a flow.
    pub(crate) fn store(&mut self, flow: FlowId, task: u32) {
        self.of(flow).tasks.push_back(task);
    }

    /// The queue asks for more of a flow.
    pub(crate) fn pull(&mut self, flow: FlowId, tasks: u32) {
        let backlog = self.of(flow);
        backlog.requested = backlog.requested.saturating_add(tasks);
    }

    /// A task of a flow was dispatched.
    pub(crate) fn release(&mut self, flow: FlowId) {
        self.of(flow).held -= 1;
    }

    /// The next task of a flow that the queue has asked for and the window has room for.
    pub(crate) fn hand_out(&mut self, flow: FlowId) -> Option<u32> {
        let window = self.window;
        let backlog = self.of(flow);
        if backlog.requested == 0 || backlog.held >= window {
            return None;
        }
        let task = backlog.tasks.pop_front()?;
        backlog.requested -= 1;
        backlog.held += 1;
        Some(task)
    }

    fn of(&mut self, flow: FlowId) -> &mut Backlog {
        &mut self.flows[flow.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_hands_out_what_is_asked_for_in_order_and_holds_no_more_than_its_window() {
        let flow = FlowId(1);
        let mut backlogs = Backlogs::new(2, 3);
        (0..9).for_each(|task| backlogs.store(flow, task));
        assert_eq!(backlogs.hand_out(flow), None, "nothing was asked for");
        backlogs.pull(flow, 2);
        let out = |backlogs: &mut Backlogs| std::iter::from_fn(|| backlogs.hand_out(flow)).collect::<Vec<_>>();
        assert_eq!(out(&mut backlogs), [0, 1]);
        backlogs.pull(flow, 5);
        assert_eq!(out(&mut backlogs), [2], "the window is full");
        backlogs.release(flow);
        assert_eq!(out(&mut backlogs), [3], "the pull is still open");
    }
}
