//! What a completion triggers: webhooks, subjects, follow-up tasks.

mod body;
pub mod endpoint;
pub mod rules;
pub mod signature;
