//! What tests of other crates use of the simulation: a history that fails is shortened for them as well.

pub mod shrink;
