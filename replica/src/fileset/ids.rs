//! Whose ids the log and the host's tree have: on a client they are the server's, and its users have others.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use mezzo_core::IdMapping;
use serde::{Deserialize, Serialize};

use super::own_path;
use crate::host::write_whole;

const FILE: &str = "ids";

const HEADING: &str = "\
# How the users of this machine are those that the log tells of. The mapping is the server's: what is changed here, the server
# refuses. local may be edited while it is not mounted: where all are one user of the server, that user's objects are shown as
# those of this user and group.

";

/// How the users of this machine are those that the log tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The mapping, as the server said last.
    pub mapping: IdMapping,
    /// User and group: as whose objects of the one user are shown, where all are one.
    pub local: (u32, u32),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mapping: String,
    local: String,
}

impl Ids {
    /// What is written in the directory `own`; the same ids where nothing is.
    pub(super) fn read(own: BorrowedFd<'_>) -> io::Result<Ids> {
        match std::fs::read_to_string(own_path(own, FILE)) {
            Ok(text) => Ids::parse(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ids::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes it in the directory `own`; durable when it returns. Whoever has the fileset open goes on with what was there.
    pub fn write(&self, own: BorrowedFd<'_>) -> io::Result<()> {
        let (uid, gid) = self.local;
        let file = File { mapping: self.mapping.to_string(), local: format!("{uid}:{gid}") };
        let text = toml::to_string(&file).map_err(io::Error::other)?;
        write_whole(own, FILE, format!("{HEADING}{text}").as_bytes())
    }

    fn parse(text: &str) -> Result<Ids, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mapping = file.mapping.parse::<IdMapping>().map_err(|error| error.to_string())?;
        let local =
            file.local.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        let local = local.ok_or_else(|| format!("local is {}, and not UID:GID", file.local))?;
        Ok(Ids { mapping, local })
    }
}

/// Owner and group of a directory.
pub fn owner_of(directory: &Path) -> io::Result<(u32, u32)> {
    let stat = rustix::fs::stat(directory)?;
    Ok((stat.st_uid, stat.st_gid))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn it_reads_back_what_it_wrote_and_nothing_is_the_same_ids() {
        let directory = tempfile::tempdir().unwrap();
        let own = std::fs::File::open(directory.path()).unwrap();
        assert_eq!(Ids::read(own.as_fd()).unwrap(), Ids::default());
        for mapping in ["same", "all:7:8", "table:u1=2,g3=4"] {
            let ids = Ids { mapping: mapping.parse().unwrap(), local: (1000, 100) };
            ids.write(own.as_fd()).unwrap();
            assert_eq!(Ids::read(own.as_fd()).unwrap(), ids);
        }
        for text in
            ["mapping = \"same\"", "mapping = \"some\"\nlocal = \"1:2\"", "mapping = \"same\"\nlocal = \"1\""]
        {
            std::fs::write(directory.path().join(FILE), text).unwrap();
            assert!(Ids::read(own.as_fd()).is_err(), "{text}");
        }
    }
}
