//! Acting as somebody.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Somebody's rights.
#[derive(Clone, Copy, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'static [u32],
}

/// A group that some are in besides their own.
pub const TEAM: u32 = 3100;

pub const ROOT: User = User { uid: 0, gid: 0, groups: &[] };
pub const ALICE: User = User { uid: 3001, gid: 3001, groups: &[] };
pub const BOB: User = User { uid: 3002, gid: 3002, groups: &[] };
/// She is in the team.
pub const CAROL: User = User { uid: 3003, gid: 3003, groups: &[4711, TEAM] };

impl User {
    /// Runs `act` on a thread with these rights: to the kernel, that is a process of this user's.
    pub fn does<T: Send>(self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                self.assume();
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs with these rights.
    pub fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if self.uid != 0 {
            // SAFETY: system calls alone.
            unsafe {
                command.pre_exec(move || {
                    self.assume();
                    Ok(())
                });
            }
        }
        command
    }

    /// Gives the calling thread these rights, for ever.
    pub fn assume(self) {
        if self.uid == 0 {
            return;
        }
        // SAFETY: raw calls change the calling thread alone, where those of the C library change all; the list of groups
        // is there for the call.
        let done = unsafe {
            libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid) == 0
                && libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid) == 0
        };
        assert!(done, "could not become {self:?}: {}", std::io::Error::last_os_error());
    }
}
