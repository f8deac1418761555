//! Mounting and unmounting: by mount(2) where we may, else through fusermount3.

use crate::session::may_administer;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno as Error;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use std::ffi::CString;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The helper that mounts for those who may not. Found by PATH.
const HELPER: &str = "fusermount3";

/// How a file system is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What is mounted, as /proc/mounts tells it.
    pub source: String,
    /// What follows "fuse." in the file system's type.
    pub subtype: String,
    /// Others than the one who mounts may use it. Without privilege this needs `user_allow_other` in
    /// /etc/fuse.conf.
    pub allow_other: bool,
    /// The kernel checks permission bits, and ACLs where granted.
    pub default_permissions: bool,
    /// No changes.
    pub read_only: bool,
    /// Device nodes work.
    pub allow_devices: bool,
    /// Set-user-id and set-group-id work.
    pub allow_set_id: bool,
    /// Programs can't be run.
    pub no_execute: bool,
    /// Times of access are not kept.
    pub no_access_times: bool,
    /// Largest read in bytes; 0 for no limit of its own.
    pub max_read: u32,
}

impl Default for MountOptions {
    /// For the one who mounts alone, the kernel checking permissions, without devices and set-id.
    fn default() -> MountOptions {
        MountOptions {
            source: "mezzo".into(),
            subtype: "mezzo".into(),
            allow_other: false,
            default_permissions: true,
            read_only: false,
            allow_devices: false,
            allow_set_id: false,
            no_execute: false,
            no_access_times: false,
            max_read: 0,
        }
    }
}

impl MountOptions {
    fn flags(&self) -> MountFlags {
        [
            (self.read_only, MountFlags::RDONLY),
            (!self.allow_devices, MountFlags::NODEV),
            (!self.allow_set_id, MountFlags::NOSUID),
            (self.no_execute, MountFlags::NOEXEC),
            (self.no_access_times, MountFlags::NOATIME),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
    }

    /// The options that the kernel's FUSE and the helper both know.
    fn common(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.allow_other {
            options.push("allow_other".into());
        }
        if self.default_permissions {
            options.push("default_permissions".into());
        }
        if self.max_read != 0 {
            options.push(format!("max_read={}", self.max_read));
        }
        options
    }

    /// The options for the helper. It sets nodev and nosuid itself, whatever is asked.
    fn for_helper(&self) -> String {
        let mut options = self.common();
        options.push(format!("fsname={}", escaped(&self.source)));
        options.push(format!("subtype={}", escaped(&self.subtype)));
        for (on, name) in
            [(self.read_only, "ro"), (self.no_execute, "noexec"), (self.no_access_times, "noatime")]
        {
            if on {
                options.push(name.into());
            }
        }
        options.join(",")
    }
}

/// A mounted connection, not yet greeted.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    privileged: bool,
}

impl Device {
    /// An open /dev/fuse that someone else has mounted (or, in tests, a socket that keeps message
    /// boundaries).
    pub fn from_fd(fd: OwnedFd) -> Device {
        Device { fd, privileged: false }
    }

    /// Whether mount(2) was used rather than the helper: whether devices and set-id can be allowed.
    pub fn is_privileged(&self) -> bool {
        self.privileged
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// Mounts a file system, whose requests then wait on the device.
///
/// With CAP_SYS_ADMIN by mount(2), else by fusermount3. Fails with the system's error, or `Other` with what
/// the helper said.
pub fn mount(mountpoint: &Path, options: &MountOptions) -> io::Result<Device> {
    if !may_administer() {
        return mount_by_helper(mountpoint, options);
    }
    match mount_directly(mountpoint, options) {
        Err(Error::PERM) => mount_by_helper(mountpoint, options),
        result => result.map_err(|error| told("mount", mountpoint, error.into())),
    }
}

/// Unmounts. `lazy` takes it out of the tree at once, and ends it when its last user is gone.
///
/// Fails with EBUSY while it is in use (unless `lazy`), with EINVAL where nothing is mounted.
pub fn unmount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(mountpoint, flags | UnmountFlags::NOFOLLOW) {
        Err(Error::PERM) => unmount_by_helper(mountpoint, lazy),
        result => result.map_err(|error| told("unmount", mountpoint, error.into())),
    }
}

fn mount_directly(mountpoint: &Path, options: &MountOptions) -> Result<Device, Error> {
    let fd = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::stat(mountpoint)?.st_mode);
    let mut data = vec![
        format!("fd={}", fd.as_raw_fd()),
        format!("rootmode={:o}", kind.as_raw_mode()),
        format!("user_id={}", rustix::process::getuid().as_raw()),
        format!("group_id={}", rustix::process::getgid().as_raw()),
    ];
    data.extend(options.common());
    let data = CString::new(data.join(",")).map_err(|_| Error::INVAL)?;
    let kind = format!("fuse.{}", options.subtype);
    rustix::mount::mount(&options.source, mountpoint, kind, options.flags(), Some(data.as_c_str()))?;
    Ok(Device { fd, privileged: true })
}

/// The helper sends the device over the socket that it finds as its standard input.
fn mount_by_helper(mountpoint: &Path, options: &MountOptions) -> io::Result<Device> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let child = Command::new(HELPER)
        .args(["-o", &options.for_helper(), "--"])
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| told("mount (by fusermount3)", mountpoint, error))?;
    // The socket's other end lives in the helper alone, so that this ends when the helper does.
    let received = receive_fd(&ours);
    let said = finish_helper(child)?;
    match received? {
        Some(fd) if said.is_ok() => Ok(Device { fd, privileged: false }),
        _ => {
            Err(told("mount (by fusermount3)", mountpoint, io::Error::other(said.err().unwrap_or_default())))
        }
    }
}

fn unmount_by_helper(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(HELPER);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mountpoint);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    finish_helper(child)?.map_err(|said| told("unmount (by fusermount3)", mountpoint, io::Error::other(said)))
}

/// Waits for the helper: nothing, or what it complained of.
fn finish_helper(mut child: Child) -> io::Result<Result<(), String>> {
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(64 << 10).read_to_end(&mut said)?;
    }
    let status = child.wait()?;
    Ok(match status.success() {
        true => Ok(()),
        false => Err(format!("{status}: {}", String::from_utf8_lossy(&said).trim())),
    })
}

/// The descriptor that comes over a socket; `None` when it was closed without one.
fn receive_fd(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    let mut slices = [IoSliceMut::new(&mut byte)];
    loop {
        match rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Error::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// Commas and backslashes end or escape an option of the helper.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace(',', "\\,")
}

fn told(operation: &str, mountpoint: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("could not {operation} {}: {error}", mountpoint.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_s_options_are_escaped() {
        let options = MountOptions { source: "a,b\\c".into(), read_only: true, ..MountOptions::default() };
        assert_eq!(options.for_helper(), "default_permissions,fsname=a\\,b\\\\c,subtype=mezzo,ro");
    }

    #[test]
    fn devices_and_set_id_must_be_allowed() {
        let options = MountOptions::default();
        assert_eq!(options.flags(), MountFlags::NODEV | MountFlags::NOSUID);
        let options = MountOptions { allow_devices: true, allow_set_id: true, ..options };
        assert_eq!(options.flags(), MountFlags::empty());
    }
}
