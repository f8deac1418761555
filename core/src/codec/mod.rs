//! The log's bytes: docs/format.md in code.
