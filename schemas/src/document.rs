//! JSON Schema and AsyncAPI, generated from the types.
