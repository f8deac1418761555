//! Identities: what is tried against them, what is stored, and links.

mod attacks;
mod common;
mod link;
mod stored;
