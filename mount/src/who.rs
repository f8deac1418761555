//! Who a request came from, as /proc tells it.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezzo_core::Who;
use mezzo_core::limits::WHO_BYTES;
use parking_lot::Mutex;

/// How long an answer is good for. A number can be given to another process meanwhile, or the process can change its
/// groups; as what is told is for people, a second is close enough.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Processes that are remembered; when there are more, all are forgotten.
const REMEMBERED: usize = 4096;

/// Answers that are still good.
#[derive(Debug, Default)]
pub struct WhoIs(Mutex<HashMap<Key, (Instant, Arc<Who>)>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    uid: u32,
    gid: u32,
}

impl WhoIs {
    /// The thread `pid`, which acts with the rights of `uid` and `gid`.
    pub fn get(&self, pid: u32, uid: u32, gid: u32) -> Arc<Who> {
        let key = Key { pid, uid, gid };
        let now = Instant::now();
        if let Some((since, who)) = self.0.lock().get(&key)
            && now - *since < GOOD_FOR
        {
            return who.clone();
        }
        let who = Arc::new(look(key));
        let mut remembered = self.0.lock();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, (now, who.clone()));
        who
    }
}

fn look(key: Key) -> Who {
    let mut who = Who { uid: key.uid, gid: key.gid, pid: key.pid, ..Who::default() };
    if key.pid == 0 {
        return who;
    }
    let status = read(key.pid, "status");
    if let Some(process) = number(field(&status, b"Tgid:")) {
        who.pid = process;
    }
    if who.uid != 0 {
        who.groups = field(&status, b"Groups:").split(|b| *b == b' ').filter_map(number).collect();
    }
    // The first is in the namespace that /proc tells of; it is 0 for a session that was begun outside of it.
    let session = field(&status, b"NSsid:").split(|b| *b == b'\t').next().unwrap_or_default();
    if session != b"0" {
        who.session = cut(session);
    }
    // Not /proc/PID/stat: a process that is in exec holds a lock which that waits for, while it closes its files, and so
    // waits for us.
    let comm = read(who.pid, "comm");
    who.program = cut(comm.strip_suffix(b"\n").unwrap_or(&comm));
    who
}

/// What the process's file says. Most fits in one read; the status of a process in very many groups does not.
fn read(pid: u32, file: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(4096);
    let Ok(mut file) = std::fs::File::open(format!("/proc/{pid}/{file}")) else { return text };
    let enough = text.capacity() as u64;
    // Also a process that ends meanwhile is told as far as it goes.
    if let Ok(length) = file.by_ref().take(enough).read_to_end(&mut text)
        && length as u64 == enough
    {
        let _ = file.read_to_end(&mut text);
    }
    text
}

fn field<'a>(status: &'a [u8], name: &[u8]) -> &'a [u8] {
    status
        .split(|b| *b == b'\n')
        .find_map(|line| line.strip_prefix(name))
        .map_or(&[], |value| value.trim_ascii())
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn cut(text: &[u8]) -> Box<[u8]> {
    text[..text.len().min(WHO_BYTES)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_of_this_process() {
        let pid = std::process::id();
        let who = WhoIs::default().get(pid, 7, 8);
        let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!((who.pid, who.uid, who.gid), (pid, 7, 8));
        assert_eq!(*who.program, *comm.trim_ascii_end());
        // SAFETY: It takes a number and returns one.
        let session = unsafe { libc::getsid(0) };
        let session = if session == 0 { String::new() } else { session.to_string() };
        assert_eq!(*who.session, *session.as_bytes());
    }

    #[test]
    fn a_process_that_is_gone_is_told_as_far_as_it_goes() {
        let who = WhoIs::default().get(u32::MAX, 1, 2);
        assert_eq!((who.uid, who.gid, who.program.len()), (1, 2, 0));
    }
}
