//! Decides: what runs next, and what follows from an answer. No I/O, clock or randomness.
