//! The simulated host: a file system in memory, served through the kernel, of which every state is kept and which knows what a
//! power loss would leave.

mod disk;
mod mounted;
mod served;
pub mod state;

pub use mounted::Mounted;
pub use served::{Point, Recording, SYNC, Served};
pub use state::State;
