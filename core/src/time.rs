//! Points in time, as the kernel tells them.

/// Seconds and nanoseconds since 1970-01-01 UTC; before that, seconds are negative and nanoseconds still count
/// forward, as in `struct timespec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// The rest, 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl Time {
    /// The point `seconds` and `nanoseconds` after the epoch.
    pub const fn new(seconds: i64, nanoseconds: u32) -> Time {
        Time { seconds, nanoseconds }
    }
}

/// What every record tells of a directory that it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Times {
    /// Last change of the entries.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
}

/// A value as its author saw it, and as the change left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Step<T> {
    /// As it was seen.
    pub before: T,
    /// As it was left.
    pub after: T,
}

impl<T> Step<T> {
    /// From `before` to `after`.
    pub const fn new(before: T, after: T) -> Step<T> {
        Step { before, after }
    }

    /// The way back.
    pub fn inverse(self) -> Step<T> {
        Step { before: self.after, after: self.before }
    }
}

impl Step<Time> {
    /// What a time becomes that is `now`: another change may have moved it meanwhile, and then the later one stays, in
    /// whatever order the two come.
    pub fn onto(&self, now: Time) -> Time {
        match now {
            now if self.before == self.after => now,
            now if now == self.before => self.after,
            now => now.max(self.after),
        }
    }
}

impl Step<Times> {
    /// What the times of a directory become that are `now`.
    pub fn onto(&self, now: Times) -> Times {
        let Step { before, after } = self;
        Times {
            mtime: Step::new(before.mtime, after.mtime).onto(now.mtime),
            ctime: Step::new(before.ctime, after.ctime).onto(now.ctime),
        }
    }
}
