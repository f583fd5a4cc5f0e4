//! Reads task events, decides what runs next, routes it to lanes against credit.
