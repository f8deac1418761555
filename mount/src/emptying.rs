//! Whether somebody opens a file to empty it.
//!
//! The kernel has a file opened first, as if nothing were to be emptied, and emptied afterwards: so a running program is
//! safe. A file that is to be emptied needs no bytes, which may be far away. So where they are, the caller is looked at, who is
//! inside the system call. Where it can't be, or calls in another way, the bytes are brought: that is slower, and does no harm.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;

/// Whether the thread `caller` is inside an open that empties the file, which the kernel has asked to open with `flags`. Those must
/// be as the caller's: some file systems above open theirs, to read, inside a call for another.
pub fn is_emptied(caller: u32, flags: OFlags) -> bool {
    let called = || {
        let line = std::fs::read_to_string(format!("/proc/{caller}/syscall")).ok()?;
        let (number, arguments) = parse(&line)?;
        flags_of(number, arguments, |address| read(caller, address))
    };
    let access = flags & OFlags::ACCMODE;
    access != OFlags::RDONLY
        && called().is_some_and(|called| called.contains(OFlags::TRUNC) && called & OFlags::ACCMODE == access)
}

/// The number of a system call, and its first three arguments.
fn parse(line: &str) -> Option<(i64, [u64; 3])> {
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    Some((number, [argument()?, argument()?, argument()?]))
}

/// The flags that a call opens with; `None` where it opens nothing, or only to read.
fn flags_of(number: i64, arguments: [u64; 3], read: impl Fn(u64) -> Option<u64>) -> Option<OFlags> {
    let flags = match number {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => arguments[1],
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => u64::from((OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC).bits()),
        libc::SYS_openat => arguments[2],
        // The first field of a `struct open_how`.
        libc::SYS_openat2 => read(arguments[2])?,
        _ => return None,
    };
    Some(OFlags::from_bits_retain(flags as u32))
}

/// Eight bytes of a thread's memory.
fn read(caller: u32, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    File::open(format!("/proc/{caller}/mem")).ok()?.read_exact_at(&mut bytes, address).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_as_the_kernel_tells_them() {
        let memory = |address| (address == 0x7f00).then_some(u64::from(libc::O_TRUNC as u32 | 1));
        let check = |line: &str, expected: Option<i32>| {
            let flags = parse(line).and_then(|(number, arguments)| flags_of(number, arguments, memory));
            assert_eq!(flags, expected.map(|flags| OFlags::from_bits_retain(flags as u32)), "{line}");
        };
        let written = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        check(
            &format!("{} 0xffffff9c 0x7ffe 0x241 0x1b6 0x0 0x0 0x7ffd 0x7f1", libc::SYS_openat),
            Some(written),
        );
        check(&format!("{} 0xffffff9c 0x7ffe 0x0 0x0 0x0 0x0 0x7ffd 0x7f1", libc::SYS_openat), Some(0));
        check(&format!("{} 0x3 0x7ffe 0x7f00 0x18 0x0 0x0", libc::SYS_openat2), Some(libc::O_TRUNC | 1));
        check(&format!("{} 0x3 0x7ffe 0x7f08 0x18 0x0 0x0", libc::SYS_openat2), None);
        check(&format!("{} 0x3 0x7ffe 0x241 0x18 0x0 0x0", libc::SYS_execve), None);
        check("running", None);
        check("-1 0x7ffd 0x7f1", None);
        check("", None);
    }
}
