//! Allow-lists of callbacks: subjects to publish to, and types of follow-up tasks.
//!
//! The service publishes and submits with its own permissions; what a submitter names goes through these lists, so
//! that who may submit one type can neither publish to any subject nor start any other type.

use jetlane::TaskType;
use std::fmt;

/// The most patterns of one list.
const PATTERNS_MAX: usize = 1_000;
/// The longest pattern, in bytes: as long as a subject of a callback.
const PATTERN_BYTES_MAX: usize = 256;

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPattern {
    /// It is malformed.
    #[error("{0:?} is no pattern: tokens joined by '.', `*` for one token, `>` at the end for all that follow")]
    Malformed(String),
    /// There are too many.
    #[error("there are {0} patterns, at most {PATTERNS_MAX} are read")]
    TooMany(usize),
}

/// A pattern as NATS writes it: `billing.*.done`, `audit.>`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Vec<String>);

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let tokens: Vec<String> = text.split('.').map(str::to_owned).collect();
        let last = tokens.len() - 1;
        let is_token = |(place, token): (usize, &String)| match token.as_str() {
            "*" => true,
            ">" => place == last,
            token => !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>'),
        };
        if text.len() <= PATTERN_BYTES_MAX && tokens.iter().enumerate().all(is_token) {
            return Ok(Self(tokens));
        }
        Err(InvalidPattern::Malformed(text.chars().take(80).collect()))
    }

    fn matches(&self, text: &str) -> bool {
        let mut tokens = text.split('.');
        for pattern in &self.0 {
            match (pattern.as_str(), tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(token)) if literal == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

/// A list of patterns; empty, it matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Checks what was typed.
    ///
    /// # Errors
    /// [`InvalidPattern`].
    pub(crate) fn parse(typed: &[String]) -> Result<Self, InvalidPattern> {
        if typed.len() > PATTERNS_MAX {
            return Err(InvalidPattern::TooMany(typed.len()));
        }
        typed.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether any of them matches.
    pub(crate) fn matches(&self, text: impl fmt::Display) -> bool {
        let text = text.to_string();
        self.0.iter().any(|pattern| pattern.matches(&text))
    }
}

/// Whether a follow-up may be submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FollowUp {
    /// It may.
    Allowed,
    /// Not as far as it is known yet: a type is not announced. It is asked again.
    Unknown(String),
    /// It may not.
    Refused(String),
}

/// Decides on a follow-up: types of the list, and those that the parent's own queue serves.
///
/// `queue_of` looks a type up in the registry: a completion may come from any client, so its own word does not count.
pub(crate) fn follow_up<Q: PartialEq + fmt::Display>(
    listed: &Patterns,
    parent: &TaskType,
    asked: &TaskType,
    queue_of: impl Fn(&TaskType) -> Option<Q>,
) -> FollowUp {
    if listed.matches(asked) {
        return FollowUp::Allowed;
    }
    match (queue_of(parent), queue_of(asked)) {
        (Some(own), Some(queue)) if own == queue => FollowUp::Allowed,
        (Some(own), Some(queue)) => FollowUp::Refused(format!(
            "the follow-up {asked} is served by the queue {queue}, its parent by {own}: \
             allow it by follow_ups in [callback]"
        )),
        (None, _) => FollowUp::Unknown(format!("nobody has announced the parent's type {parent}")),
        (_, None) => FollowUp::Unknown(format!("nobody has announced the follow-up's type {asked}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(typed: &[&str]) -> Patterns {
        Patterns::parse(&typed.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("valid")
    }

    #[test]
    fn list_matches_as_nats_does_and_empty_nothing() {
        let listed = patterns(&["billing.done", "audit.*.end", "log.>"]);
        for yes in ["billing.done", "audit.x.end", "log.a", "log.a.b.c"] {
            assert!(listed.matches(yes), "{yes}");
        }
        for no in ["billing", "billing.done.x", "audit.end", "audit.x.y.end", "log", "logs.a", "", "Billing.done"] {
            assert!(!listed.matches(no), "{no:?}");
        }
        assert!(patterns(&[">"]).matches("a.b") && !Patterns::default().matches("a"));
    }

    #[test]
    fn malformed_pattern_is_refused() {
        for bad in ["", ".", "a.", ".a", "a..b", ">.a", "a.b>", "a*", "a b", &"a".repeat(300)] {
            assert!(Patterns::parse(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        assert!(Patterns::parse(&vec!["a".to_owned(); PATTERNS_MAX + 1]).is_err());
    }

    #[test]
    fn follow_up_is_of_its_parents_queue_or_of_the_list() {
        let task_type = |name: &str| TaskType::new(name).expect("valid");
        let queue_of = |task_type: &TaskType| match task_type.as_str() {
            "a" | "b" => Some("one"),
            "c" => Some("two"),
            _ => None,
        };
        let ask = |listed: &Patterns, parent: &str, asked: &str| {
            follow_up(listed, &task_type(parent), &task_type(asked), queue_of)
        };
        let none = Patterns::default();
        assert_eq!(ask(&none, "a", "b"), FollowUp::Allowed);
        assert!(matches!(ask(&none, "a", "c"), FollowUp::Refused(reason) if reason.contains("queue two")));
        assert!(matches!(ask(&none, "a", "x"), FollowUp::Unknown(_)));
        assert!(matches!(ask(&none, "x", "a"), FollowUp::Unknown(_)));
        assert_eq!(ask(&patterns(&["c", "x"]), "a", "c"), FollowUp::Allowed);
        assert_eq!(ask(&patterns(&["c", "x"]), "a", "x"), FollowUp::Allowed);
    }
}
