//! What a completion triggers: webhooks, subjects, follow-up tasks.
