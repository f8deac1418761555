//! Between replicas: who is who, how bytes become messages, and sessions over real connections.

pub mod data;
pub mod frame;
pub mod identity;
pub mod limits;
pub mod rights;
pub mod server;
pub mod session;
pub mod upstream;
