//! The tree that a log describes, in memory.
