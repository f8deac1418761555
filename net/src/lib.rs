//! Between replicas: who is who, and how bytes become messages.

pub mod frame;
pub mod identity;
pub mod limits;
