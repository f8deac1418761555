//! Acting as somebody else: the file-system identity of the calling thread alone.

use std::cell::Cell;
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Whose new objects are made. Whether they may make them was decided before, by the kernel, with the caller's
/// groups: so the thread keeps its capabilities, and no groups have to be looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

thread_local! {
    /// What file-creation mask this thread has, once it has one of its own.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
    /// Whether this thread has CAP_FSETID in effect, as far as it is permitted at all.
    static SET_ID_RIGHTS: Cell<bool> = const { Cell::new(true) };
}

/// Puts root's identity back when dropped.
#[must_use = "the identity is put back when this is dropped"]
#[derive(Debug)]
pub struct Switched {
    /// The thread's capabilities as they were; `None` where nothing was switched.
    before: Option<CapabilitySets>,
}

impl Identity {
    /// Switches the calling thread. Does nothing for root, and nothing at all where the process may not switch: then
    /// everything is done as whoever runs it.
    pub fn assume(self) -> io::Result<Switched> {
        if self == Identity::default() || !may_switch() {
            return Ok(Switched { before: None });
        }
        let before = rustix::thread::capabilities(None)?;
        set_user(self);
        let switched = Switched { before: Some(before) };
        // The kernel took the capabilities that concern file systems away together with root's identity.
        rustix::thread::set_capabilities(None, before)?;
        Ok(switched)
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            set_user(Identity::default());
            // With root's identity the kernel gives all capabilities back that concern file systems, also those that the thread
            // does without.
            let _ = rustix::thread::set_capabilities(None, before);
        }
    }
}

/// Runs `act` on this thread as the author of a record: with their file-system identity and their groups, replaced even by none,
/// and put back afterwards. Capabilities stay: whether they may is judged by others.
pub fn as_author<T>(author: Identity, groups: &[u32], act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if !may_switch() {
        return act();
    }
    let before: Vec<u32> = rustix::process::getgroups()?.into_iter().map(|group| group.as_raw()).collect();
    let switches = before != groups;
    if switches {
        set_groups(groups)?;
    }
    let result = author.assume().and_then(|_switched| act());
    if switches {
        set_groups(&before)?;
    }
    result
}

/// A raw system call, since glibc's wrapper switches all threads.
fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer leads to as many numbers as are told, and the call changes the calling thread alone.
    let set = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process may act as others at all.
pub fn may_switch() -> bool {
    rustix::process::geteuid().is_root()
}

/// Raw system calls, since glibc's wrappers may switch all threads.
fn set_user(to: Identity) {
    // SAFETY: the calls take numbers only and change the calling thread alone.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, to.gid);
        libc::syscall(libc::SYS_setfsuid, to.uid);
    }
}

/// Gives the calling thread a file-creation mask of its own, so that [`set_umask`] works on it.
fn own_umask() -> io::Result<()> {
    // SAFETY: unsharing the umask and the working directory leaves both as they are.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS)? };
    UMASK.set(Some(rustix::process::umask(rustix::fs::Mode::empty()).bits()));
    rustix::process::umask(rustix::fs::Mode::from_bits_retain(UMASK.get().unwrap_or(0)));
    Ok(())
}

/// Sets the mask for what the calling thread makes next. The host applies it, or a default ACL in its stead. Returns
/// false on a thread without a mask of its own, which is left as it is.
pub fn set_umask(umask: u32) -> bool {
    let Some(current) = UMASK.get() else { return false };
    if current != umask {
        rustix::process::umask(rustix::fs::Mode::from_bits_retain(umask & 0o777));
        UMASK.set(Some(umask));
    }
    true
}

/// Prepares the calling thread for serving users: a file-creation mask of its own, and no right to keep set-id bits (see
/// [`with_set_id_rights`]), since nearly everything is done without it; nor to go beyond quotas, which are the users'.
pub fn serve_users() -> io::Result<()> {
    own_umask()?;
    set_effective(CapabilitySet::FSETID | CapabilitySet::SYS_RESOURCE, false)?;
    SET_ID_RIGHTS.set(false);
    Ok(())
}

/// Runs `act` on this thread with, or without, the right to keep set-id bits (CAP_FSETID). Without it, the host clears them
/// on writes as it does for ordinary users, and takes no set-group-id bit from who is not in the group.
pub fn with_set_id_rights<T>(keep: bool, act: impl FnOnce() -> T) -> T {
    let has = SET_ID_RIGHTS.get();
    if has == keep || set_effective(CapabilitySet::FSETID, keep).is_err() {
        return act();
    }
    let result = act();
    // What is permitted can always be made effective again, and given up again.
    let _ = set_effective(CapabilitySet::FSETID, has);
    result
}

fn set_effective(right: CapabilitySet, effective: bool) -> io::Result<()> {
    let mut rights = rustix::thread::capabilities(None)?;
    rights.effective.set(right, effective && rights.permitted.contains(right));
    Ok(rustix::thread::set_capabilities(None, rights)?)
}
