//! Submit tasks to a NATS cluster, run them, and hear of their completions.
