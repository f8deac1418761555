//! What the host tells of changes on a whole file system, whoever makes them (fanotify(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{Handle, checked};

/// How many events the kernel keeps for the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// As many as there is memory for, where that is allowed, else as many as the system's setting says.
    Unbounded,
    /// As many as the system's setting says: 16,384 where nobody changed it. What is beyond is lost, which is told.
    Bounded,
}

/// Changes of names, of attributes, and of data that somebody had open for writing. Writes themselves make no event, since
/// every write of everybody would.
const MASK: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_RENAME
    | libc::FAN_ATTRIB
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ONDIR;

/// Events on one file system. Objects are told by their handles, so that nothing is kept open.
#[derive(Debug)]
pub struct Fanotify(OwnedFd);

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The process that made the change.
    pub pid: i32,
    mask: u64,
    details: &'a [u8],
}

/// Where something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The directory.
    pub directory: Handle,
    /// A name in it, or `.` for the directory itself.
    pub name: Box<[u8]>,
}

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Of a rename, where the object was.
    pub from: Option<At>,
    /// Where the object is or was; of a rename, where it went.
    pub at: Option<At>,
    /// The object.
    pub object: Option<Handle>,
}

/// The kernel told something that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's events could not be read: {0}")]
pub struct Malformed(&'static str);

impl Fanotify {
    /// Watches the whole file system that `directory` is on. Needs CAP_SYS_ADMIN, and Linux 5.17.
    pub fn watch(directory: BorrowedFd<'_>, queue: Queue) -> io::Result<Fanotify> {
        let events = match queue {
            Queue::Unbounded => begin(libc::FAN_UNLIMITED_QUEUE).or_else(|_| begin(0))?,
            Queue::Bounded => begin(0)?,
        };
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: both descriptors are open, and there is no path.
        checked(unsafe {
            libc::fanotify_mark(events.as_raw_fd(), flags, MASK, directory.as_raw_fd(), std::ptr::null())
        })?;
        Ok(Fanotify(events))
    }

    /// Reads events that are there, as many as fit; 0 bytes where there are none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut *buffer)) {
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            read => Ok(read?),
        }
    }
}

impl AsFd for Fanotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn begin(queue: libc::c_uint) -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_REPORT_DFID_NAME_TARGET
        | queue;
    // SAFETY: it takes numbers, and the result is a new descriptor.
    unsafe { Ok(OwnedFd::from_raw_fd(checked(libc::fanotify_init(flags, 0))?)) }
}

/// Bytes of `struct fanotify_event_metadata`: length (4), version (1), a reserved one, length of this head (2), mask (8),
/// descriptor (4), process (4). Numbers are in the machine's own order here and below.
const HEAD: usize = 24;

/// The events in what was read.
pub fn events(mut bytes: &[u8]) -> impl Iterator<Item = Result<Event<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (event, rest) = match split(bytes) {
            Ok((event, rest)) => (Ok(event), rest),
            Err(malformed) => (Err(malformed), &[][..]),
        };
        bytes = rest;
        Some(event)
    })
}

fn split(bytes: &[u8]) -> Result<(Event<'_>, &[u8]), Malformed> {
    let head = bytes.get(..HEAD).ok_or(Malformed("an event is cut off"))?;
    if head[4] != libc::FANOTIFY_METADATA_VERSION {
        return Err(Malformed("they are of another version"));
    }
    let (length, head_length) =
        (number(head, 0) as usize, usize::from(u16::from_ne_bytes([head[6], head[7]])));
    let details = bytes.get(head_length..length).filter(|_| head_length >= HEAD);
    let details = details.ok_or(Malformed("an event's length is wrong"))?;
    let mask = u64::from_ne_bytes(head[8..16].try_into().expect("eight bytes"));
    Ok((Event { pid: number(head, 20) as i32, mask, details }, &bytes[length..]))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl Event<'_> {
    /// Whether it says that events were lost.
    pub fn is_overflow(&self) -> bool {
        self.mask & libc::FAN_Q_OVERFLOW != 0
    }

    /// Whether a name was made, lost or changed.
    pub fn is_of_names(&self) -> bool {
        self.mask & (libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_RENAME) != 0
    }

    /// Whether attributes or data may have changed.
    pub fn is_of_object(&self) -> bool {
        self.mask & (libc::FAN_ATTRIB | libc::FAN_CLOSE_WRITE) != 0
    }

    /// What it is about.
    pub fn about(&self) -> Result<About, Malformed> {
        let mut about = About::default();
        let mut bytes = self.details;
        while !bytes.is_empty() {
            let cut_off = Malformed("what an event is about is cut off");
            let head = bytes.get(..4).ok_or(cut_off)?;
            let length = usize::from(u16::from_ne_bytes([head[2], head[3]]));
            // The head, and the file system's id, which is that of the one that is watched.
            let body = bytes.get(12..length).ok_or(cut_off)?;
            match head[0] {
                libc::FAN_EVENT_INFO_TYPE_FID => about.object = Some(handle(body)?.0),
                libc::FAN_EVENT_INFO_TYPE_DFID_NAME | libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => {
                    about.at = Some(at(body)?);
                }
                libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => about.from = Some(at(body)?),
                _ => {}
            }
            bytes = &bytes[length..];
        }
        Ok(about)
    }
}

/// A `struct file_handle`: length (4), type (4), and that many bytes.
fn handle(body: &[u8]) -> Result<(Handle, &[u8]), Malformed> {
    let malformed = Malformed("a handle is cut off");
    let length = number(body.get(..8).ok_or(malformed)?, 0) as usize;
    let end = length.checked_add(8).ok_or(malformed)?;
    let handle = body.get(4..end).and_then(Handle::from_bytes).ok_or(malformed)?;
    Ok((handle, &body[end..]))
}

fn at(body: &[u8]) -> Result<At, Malformed> {
    let (directory, rest) = handle(body)?;
    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(At { directory, name: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut body = vec![7; 8];
        body.extend_from_slice(&(handle.len() as u32).to_ne_bytes());
        body.extend_from_slice(&1u32.to_ne_bytes());
        body.extend_from_slice(handle);
        body.extend_from_slice(name);
        body.resize((body.len() + 1).next_multiple_of(4), 0);
        let mut bytes = vec![kind, 0];
        bytes.extend_from_slice(&(body.len() as u16 + 4).to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn event(mask: u64, pid: i32, details: &[Vec<u8>]) -> Vec<u8> {
        let details = details.concat();
        let mut bytes = ((HEAD + details.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&[libc::FANOTIFY_METADATA_VERSION, 0, HEAD as u8, 0]);
        bytes.extend_from_slice(&mask.to_ne_bytes());
        bytes.extend_from_slice(&(-1i32).to_ne_bytes());
        bytes.extend_from_slice(&pid.to_ne_bytes());
        bytes.extend(details);
        bytes
    }

    fn known(bytes: &[u8]) -> Handle {
        Handle::from_bytes(&[&1u32.to_ne_bytes()[..], bytes].concat()).unwrap()
    }

    #[test]
    fn events_are_read_one_after_the_other() {
        let (a, b, c) = ([1; 8], [2; 8], [3; 12]);
        let rename = [
            detail(libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, &a, b"old"),
            detail(libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &b, b"new name"),
            detail(libc::FAN_EVENT_INFO_TYPE_FID, &c, b""),
        ];
        let bytes = [
            event(libc::FAN_RENAME, 12, &rename),
            event(libc::FAN_Q_OVERFLOW, 0, &[]),
            event(libc::FAN_ATTRIB, 13, &[detail(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &a, b".")]),
        ]
        .concat();
        let read: Vec<_> = events(&bytes).map(Result::unwrap).collect();
        assert_eq!(read.iter().map(|event| event.pid).collect::<Vec<_>>(), [12, 0, 13]);
        assert!(read[0].is_of_names() && read[1].is_overflow() && read[2].is_of_object());
        let at = |handle: &[u8], name: &[u8]| Some(At { directory: known(handle), name: name.into() });
        let expected = About { from: at(&a, b"old"), at: at(&b, b"new name"), object: Some(known(&c)) };
        assert_eq!(read[0].about(), Ok(expected));
        assert_eq!(read[1].about(), Ok(About::default()));
        assert_eq!(read[2].about().unwrap().at, at(&a, b"."));
    }

    #[test]
    fn what_is_cut_off_or_wrong_is_refused() {
        let whole = event(libc::FAN_CREATE, 1, &[detail(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &[5; 8], b"n")]);
        for length in 1..whole.len() {
            assert!(events(&whole[..length]).any(|event| event.is_err()), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] ^= 0xff;
            // Whatever comes of it, it is an answer.
            for event in events(&wrong).flatten() {
                let _ = event.about();
            }
        }
    }
}
