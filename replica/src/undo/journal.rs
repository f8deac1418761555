//! What is being taken back, noted before it begins and removed when it is done.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mezzo_core::{ObjectId, Recno, Who};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

const NAME: &str = "undo";
const UNFINISHED: &str = "undo.new";

/// The file, as long as an undo is under way.
pub(crate) struct Journal(OwnedFd);

/// An undo.
pub(crate) struct Work {
    /// The last record before it began.
    pub began: Recno,
    /// The records that it takes back, newest first.
    pub records: Vec<Recno>,
    /// Objects that will be gone.
    pub gone: HashSet<ObjectId>,
    /// Of files whose data is changed by more than one of the records: the newest and the oldest of those.
    pub runs: HashMap<ObjectId, (Recno, Recno)>,
    /// Who asked for it.
    pub who: Who,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// The last record before.
    began: u64,
    /// First and last of each run of records, newest first.
    runs: Vec<(u64, u64)>,
    gone: Vec<String>,
    /// Files whose data is changed by more than one of the records, with the newest and the oldest of those.
    files: Vec<(String, u64, u64)>,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    pid: u32,
    program: Vec<u8>,
    session: Vec<u8>,
}

impl Journal {
    /// Notes what is about to be done.
    pub fn begin(own: BorrowedFd<'_>, work: &Work) -> io::Result<Journal> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for recno in &work.records {
            match runs.last_mut() {
                Some((_, last)) if *last == recno.0 + 1 => *last = recno.0,
                _ => runs.push((recno.0, recno.0)),
            }
        }
        let who = &work.who;
        let content = Content {
            began: work.began.0,
            runs,
            gone: work.gone.iter().map(ToString::to_string).collect(),
            files: work
                .runs
                .iter()
                .map(|(id, (newest, oldest))| (id.to_string(), newest.0, oldest.0))
                .collect(),
            uid: who.uid,
            gid: who.gid,
            groups: who.groups.to_vec(),
            pid: who.pid,
            program: who.program.to_vec(),
            session: who.session.to_vec(),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(own, UNFINISHED, flags, Mode::from_bits_retain(0o600))?;
        let mut file = std::fs::File::from(file);
        file.write_all(&serde_json::to_vec(&content)?)?;
        file.sync_all()?;
        rustix::fs::renameat(own, UNFINISHED, own, NAME)?;
        rustix::fs::fsync(own)?;
        Ok(Journal(own.try_clone_to_owned()?))
    }

    /// What was under way; `None` where nothing was. `last` is the log's last record.
    pub fn open(own: BorrowedFd<'_>, last: Recno) -> io::Result<Option<(Journal, Work)>> {
        let file = match rustix::fs::openat(own, NAME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        std::fs::File::from(file).read_to_end(&mut bytes)?;
        let work = Work::parse(&bytes, last).map_err(|cause| {
            let told =
                format!("could not use .mezzo/{NAME}, without which the undo stays half done: {cause}");
            io::Error::new(io::ErrorKind::InvalidData, told)
        })?;
        Ok(Some((Journal(own.try_clone_to_owned()?), work)))
    }

    /// Everything was done.
    pub fn end(self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.0.as_fd(), NAME, AtFlags::empty())?)
    }
}

impl Work {
    /// Reads a journal of a log whose last record is `last`. Records that the log has no more are left out, so that no number in
    /// it asks for more than the log has; runs that are not newest first are refused.
    pub fn parse(bytes: &[u8], last: Recno) -> Result<Work, String> {
        let content: Content = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let falls = content.runs.iter().all(|(newest, oldest)| newest >= oldest);
        if !falls || !content.runs.is_sorted_by(|(_, oldest), (newest, _)| oldest > newest) {
            return Err("its records are not told newest first".to_owned());
        }
        let records = content
            .runs
            .iter()
            .flat_map(|(newest, oldest)| (*oldest..=*newest.min(&last.0)).rev().map(Recno));
        let object =
            |id: &String| id.parse().map(ObjectId).map_err(|error| format!("{}: {error}", id.escape_debug()));
        let run =
            |(id, newest, oldest): &(String, u64, u64)| Ok((object(id)?, (Recno(*newest), Recno(*oldest))));
        Ok(Work {
            began: Recno(content.began),
            records: records.collect(),
            gone: content.gone.iter().map(object).collect::<Result<_, _>>()?,
            runs: content.files.iter().map(run).collect::<Result<_, String>>()?,
            who: Who {
                uid: content.uid,
                gid: content.gid,
                groups: content.groups,
                pid: content.pid,
                program: content.program.into(),
                session: content.session.into(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(runs: &str) -> String {
        format!(
            r#"{{"began":9,"runs":{runs},"gone":[],"files":[],"uid":0,"gid":0,"groups":[],"pid":1,"program":[],"session":[]}}"#
        )
    }

    #[test]
    fn a_journal_asks_for_no_more_than_the_log_has() {
        let check = |runs: &str, expected: Option<&[u64]>| {
            let records = Work::parse(journal(runs).as_bytes(), Recno(9)).ok().map(|work| work.records);
            assert_eq!(
                records,
                expected.map(|numbers| numbers.iter().copied().map(Recno).collect()),
                "{runs}"
            );
        };
        check("[]", Some(&[]));
        check("[[9,7],[5,5]]", Some(&[9, 8, 7, 5]));
        check("[[18446744073709551615,8]]", Some(&[9, 8]));
        check("[[18446744073709551615,18446744073709551615]]", Some(&[]));
        check("[[7,9]]", None);
        check("[[5,5],[9,7]]", None);
        check("[[9,7],[7,1]]", None);
        check("[[-1,-2]]", None);
    }
}
