//! Sessions over TLS on loopback sockets, between replicas in temporary directories.

mod attacks;
mod common;
mod exchange;
