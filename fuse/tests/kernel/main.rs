//! Tests against the kernel, on real mounts of a file system that mirrors a directory. They need root and
//! /dev/fuse.
//!
//! Each mount is taken away by its guard, also when a test fails.

mod backing;
mod credentials;
mod directories;
mod files;
mod handshake;
mod interrupts;
mod mirror;
mod mounted;
mod notifications;
mod rings;
mod robustness;
mod unprivileged;
