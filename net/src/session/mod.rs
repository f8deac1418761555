//! A session's machine over a connection: its acts carried out, and what happens told to it.

mod drive;
mod hub;
mod wire;

pub use drive::{Ended, Handle, Role, Rules, Session, Standing, drive};
pub use hub::Hub;
#[cfg(test)]
pub(crate) use wire::{Frame, open};
pub(crate) use wire::{Sender, Urgency};
