//! What signals wait for a caller, as /proc tells it.
//!
//! INTERRUPT alone says too little. The kernel sends it once, for the first signal, be it a fatal one or a
//! timer's tick; it sends it without any signal when the caller has io_uring work to do; and on a ring it can
//! fail to send it at all, when the signal comes while the request is being handed over (Linux 6.18: a
//! request counts as sent only when the queue's thread has copied it, and nobody looks for a signal then). A
//! caller that waits keeps its signals pending, so that looking tells.

use std::fs;

/// What waits for a thread that is inside a call of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Nothing it would notice.
    Nothing,
    /// A signal that it handles, or that stops it.
    Some,
    /// Its end.
    Fatal,
    /// It can't be looked at: the kernel itself asks, or a process of another pid namespace.
    Unknown,
}

/// Bit `signal - 1` of each of these is set.
const fn mask<const N: usize>(signals: [i32; N]) -> u64 {
    let mut mask = 0;
    let mut index = 0;
    while index < N {
        mask |= 1 << (signals[index] - 1);
        index += 1;
    }
    mask
}

/// Signals that do nothing unless they are handled.
const HARMLESS: u64 = mask([libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH]);

/// Signals that stop unless they are handled.
const STOPPING: u64 = mask([libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]);

/// What waits for the thread `caller`. Takes some 25 µs.
pub(crate) fn pending(caller: u32) -> Pending {
    if caller == 0 {
        return Pending::Unknown;
    }
    let status = fs::read_to_string(format!("/proc/{caller}/status"));
    status.ok().and_then(|status| judge(&status)).unwrap_or(Pending::Unknown)
}

fn judge(status: &str) -> Option<Pending> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).ok()
    };
    let noticed = (field("SigPnd")? | field("ShdPnd")?) & !field("SigBlk")? & !field("SigIgn")?;
    let unhandled = noticed & !field("SigCgt")? & !HARMLESS;
    Some(match (unhandled & !STOPPING, noticed & field("SigCgt")? | unhandled) {
        (0, 0) => Pending::Nothing,
        (0, _) => Pending::Some,
        _ => Pending::Fatal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status with the pending, shared pending, blocked, ignored and caught signals.
    fn status([pending, shared, blocked, ignored, caught]: [u64; 5]) -> String {
        format!(
            "Name:\tcat\nSigQ:\t0/100\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\nCapInh:\t0\n"
        )
    }

    #[test]
    fn every_situation() {
        let (kill, term, quit) = (mask([libc::SIGKILL]), mask([libc::SIGTERM]), mask([libc::SIGQUIT]));
        let (child, stop) = (mask([libc::SIGCHLD]), mask([libc::SIGTSTP]));
        let rows = [
            ([0, 0, 0, 0, 0], Pending::Nothing),
            ([kill, 0, 0, 0, 0], Pending::Fatal),
            ([0, term, 0, 0, 0], Pending::Fatal),
            ([0, quit, 0, 0, 0], Pending::Fatal),
            ([0, term, 0, 0, term], Pending::Some),
            ([0, term, term, 0, 0], Pending::Nothing),
            ([0, term, 0, term, 0], Pending::Nothing),
            ([0, child, 0, 0, 0], Pending::Nothing),
            ([0, child, 0, 0, child], Pending::Some),
            ([stop, 0, 0, 0, 0], Pending::Some),
            ([kill, term, 0, 0, term], Pending::Fatal),
            ([child, term, 0, 0, term], Pending::Some),
        ];
        for (fields, expected) in rows {
            assert_eq!(judge(&status(fields)), Some(expected), "{fields:x?}");
        }
        assert_eq!(judge("SigPnd:\t0\n"), None);
    }

    #[test]
    fn living_and_missing_callers() {
        assert_eq!(pending(std::process::id()), Pending::Nothing);
        assert_eq!(pending(0), Pending::Unknown);
        assert_eq!(pending(u32::MAX), Pending::Unknown);
    }
}
