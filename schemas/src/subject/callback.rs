//! Where callbacks are due, and where those end that nobody took.

use crate::id::TaskId;
use crate::limits::TYPE_TOKENS_MAX;
use crate::token::TaskType;

/// All callbacks that are due.
pub const CALLBACK_ALL: &str = "jetlane.callback.>";
/// All callbacks that were given up.
pub const DEAD_CALLBACK_ALL: &str = "jetlane.dead_callback.>";

/// Where the `index`-th callback of a task is due: `jetlane.callback.<type>.<id>.<index>`.
pub fn callback(task_type: &TaskType, id: &TaskId, index: usize) -> String {
    format!("jetlane.callback.{task_type}.{id}.{index}")
}

/// Where its schedule is stored: one subject a callback.
pub fn schedule_callback(task_type: &TaskType, id: &TaskId, index: usize) -> String {
    format!("jetlane.schedule.callback.{id}.{index}.{task_type}")
}

/// Where a callback is kept that was given up: `jetlane.dead_callback.<type>.<id>.<index>`.
pub fn dead_callback(task_type: &TaskType, id: &TaskId, index: usize) -> String {
    format!("jetlane.dead_callback.{task_type}.{id}.{index}")
}

/// Matches callbacks that were given up of a task type and id, as far as they are known. Several filters where the id
/// is known without its type.
pub fn dead_callbacks_matching(task_type: Option<&TaskType>, id: Option<&TaskId>) -> Vec<String> {
    match (task_type, id) {
        (None, None) => vec![DEAD_CALLBACK_ALL.to_owned()],
        (Some(task_type), None) => vec![format!("jetlane.dead_callback.{task_type}.*.*")],
        (Some(task_type), Some(id)) => vec![format!("jetlane.dead_callback.{task_type}.{id}.*")],
        (None, Some(id)) => {
            (1..=TYPE_TOKENS_MAX).map(|tokens| format!("jetlane.dead_callback.{}{id}.*", "*.".repeat(tokens))).collect()
        }
    }
}

/// The task's type and id, and the callback's place among its callbacks, of [`callback`].
pub fn parse_callback(subject: &str) -> Option<(TaskType, TaskId, usize)> {
    parse(subject.strip_prefix("jetlane.callback.")?)
}

/// The same of [`dead_callback`].
pub fn parse_dead_callback(subject: &str) -> Option<(TaskType, TaskId, usize)> {
    parse(subject.strip_prefix("jetlane.dead_callback.")?)
}

fn parse(place: &str) -> Option<(TaskType, TaskId, usize)> {
    let (task, index) = place.rsplit_once('.')?;
    let (task_type, id) = task.rsplit_once('.')?;
    Some((TaskType::new(task_type).ok()?, TaskId::new(id).ok()?, index.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_parsed_back_and_neither_passes_for_the_other() {
        for task_type in ["a", "image.thumbnail.v2", "a.b.c.d.e.f"] {
            let (task_type, id) = (TaskType::new(task_type).expect("valid"), TaskId::from_sequence(12));
            let (due, dead) = (callback(&task_type, &id, 7), dead_callback(&task_type, &id, 7));
            let named = Some((task_type, id, 7));
            assert_eq!((parse_callback(&due), parse_dead_callback(&dead)), (named.clone(), named));
            assert_eq!((parse_callback(&dead), parse_dead_callback(&due)), (None, None));
            assert_eq!(super::super::parse_dead(&dead), None);
        }
    }

    #[test]
    fn what_is_no_callback_is_not_parsed() {
        for bad in ["", "jetlane.callback", "jetlane.callback.a.b", "jetlane.callback.a.b.x", "jetlane.callback.a.*.0"]
        {
            assert_eq!(parse_callback(bad), None, "{bad:?}");
        }
    }
}
