//! `fileset.toml`: what a fileset is and how it is to be treated, for people to read and edit.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use mezzo_core::{FilesetId, ReplicaId};
use serde::{Deserialize, Serialize};

use super::own_path;
use crate::attic::AtticPolicy;
use crate::demand::CachePolicy;
use crate::gate::PermitPolicy;
use crate::host::write_whole;

/// The version of everything in `.mezzo` that this program writes.
pub const FORMAT: u32 = 1;

/// Seconds after which the data of a file that stays open is recorded: a minute's work is what others may have to wait for.
const UNSTABLE_SECONDS: u32 = 60;

const FILE: &str = "fileset.toml";

const HEADING: &str = "\
# A fileset of mezzo. Policies may be edited while it is not mounted; ids must stay.
#
# attic.copy_limit: on a host that can't clone (ext4), a file above it has the ranges kept that are overwritten. For that its data
# goes through the daemon while it is open for writing: overwriting it is then 4 to 23 times slower. attic.exclude names
# files for which that is too much, such as those of databases.
#
# permit.mode: with exclusive, one replica at a time may write; the server's counts. permit.when_refused, wait or erofs, is for the users
# of this replica.

";

/// What `fileset.toml` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The fileset, the same on all replicas.
    pub id: FilesetId,
    /// What people call it.
    pub name: String,
    /// This replica of it.
    pub replica: ReplicaId,
    /// When digests are made.
    pub digests: Digests,
    /// Seconds after which the data of a file that stays open is recorded; 0 for never.
    pub unstable_seconds: u32,
    /// What is kept of data that the tree has no more.
    pub attic: AtticPolicy,
    /// How much data is to be here that others have too.
    pub cache: CachePolicy,
    /// Who may write.
    pub permit: PermitPolicy,
}

/// When the digest of data that was written is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digests {
    /// In the background, once a file was left alone for some seconds.
    #[default]
    Background,
    /// When something asks for them.
    Demand,
}

/// `fileset.toml` can't be used.
#[derive(Debug, thiserror::Error)]
#[error("could not use .mezzo/fileset.toml in {}: {cause}", path.display())]
pub struct ConfigError {
    path: PathBuf,
    cause: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    id: String,
    name: String,
    replica: String,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    attic: AtticPolicy,
    #[serde(default)]
    cache: CachePolicy,
    #[serde(default)]
    permit: PermitPolicy,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Policy {
    digests: Digests,
    unstable_seconds: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { digests: Digests::default(), unstable_seconds: UNSTABLE_SECONDS }
    }
}

impl Config {
    /// A new fileset with every policy as usual.
    pub fn new(id: FilesetId, name: String, replica: ReplicaId) -> Config {
        let Policy { digests, unstable_seconds } = Policy::default();
        Config {
            id,
            name,
            replica,
            digests,
            unstable_seconds,
            attic: AtticPolicy::default(),
            cache: CachePolicy::default(),
            permit: PermitPolicy::default(),
        }
    }

    /// Reads the file in the directory `own`; `path` is what errors call the fileset.
    pub fn read(own: BorrowedFd<'_>, path: &Path) -> Result<Config, ConfigError> {
        let failed = |cause: String| ConfigError { path: path.to_owned(), cause };
        let text = std::fs::read_to_string(own_path(own, FILE)).map_err(|error| failed(error.to_string()))?;
        Config::parse(&text).map_err(failed)
    }

    /// Reads the file's text.
    pub(crate) fn parse(text: &str) -> Result<Config, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.format != FORMAT {
            return Err(format!("format is {}, and this program knows {FORMAT} only", file.format));
        }
        Ok(Config {
            id: file.id.parse().map_err(|_| "id is not 32 hexadecimal digits".to_owned())?,
            name: file.name,
            replica: file
                .replica
                .parse()
                .ok()
                .filter(|replica: &ReplicaId| replica.0 != 0)
                .ok_or("replica is not 16 hexadecimal digits other than 0")?,
            digests: file.policy.digests,
            unstable_seconds: file.policy.unstable_seconds,
            attic: file.attic,
            cache: file.cache,
            permit: file.permit,
        })
    }

    /// Gives the replica another id, in the file in the directory `own` too, where all else stays as people wrote it; durable
    /// when it returns.
    pub fn set_replica(&mut self, own: BorrowedFd<'_>, replica: ReplicaId) -> io::Result<()> {
        let text = std::fs::read_to_string(own_path(own, FILE))?;
        let text = text.replace(&self.replica.to_string(), &replica.to_string());
        self.replica = replica;
        if Config::parse(&text).as_ref() == Ok(&*self) {
            write_whole(own, FILE, text.as_bytes())
        } else {
            self.write(own)
        }
    }

    /// Replaces the file in the directory `own`; durable when it returns.
    pub fn write(&self, own: BorrowedFd<'_>) -> io::Result<()> {
        write_whole(own, FILE, self.text()?.as_bytes())
    }

    /// The file's text.
    pub(crate) fn text(&self) -> io::Result<String> {
        let file = File {
            format: FORMAT,
            id: self.id.to_string(),
            name: self.name.clone(),
            replica: self.replica.to_string(),
            policy: Policy { digests: self.digests, unstable_seconds: self.unstable_seconds },
            attic: self.attic.clone(),
            cache: self.cache.clone(),
            permit: self.permit.clone(),
        };
        let text = toml::to_string(&file).map_err(io::Error::other)?;
        Ok(format!("{HEADING}{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn sample() -> Config {
        Config::new(FilesetId([0xab; 16]), "a \"tree\"".to_owned(), ReplicaId(0x12))
    }

    #[test]
    fn it_reads_what_it_writes() {
        let directory = tempfile::tempdir().unwrap();
        let own = std::fs::File::open(directory.path()).unwrap();
        sample().write(own.as_fd()).unwrap();
        assert_eq!(Config::read(own.as_fd(), directory.path()).unwrap(), sample());
    }

    #[test]
    fn another_id_leaves_what_people_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let own = std::fs::File::open(directory.path()).unwrap();
        let mut config = sample();
        config.write(own.as_fd()).unwrap();
        let path = directory.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap() + "# mine\n";
        std::fs::write(&path, &text).unwrap();
        config.set_replica(own.as_fd(), ReplicaId(0x34)).unwrap();
        let expected = text.replace("0000000000000012", "0000000000000034");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(Config::read(own.as_fd(), directory.path()).unwrap(), config);
    }

    #[test]
    fn what_is_refused_and_why() {
        let good = "format = 1\nid = \"abababababababababababababababab\"\nname = \"n\"\nreplica = \"0000000000000001\"\n";
        assert!(Config::parse(good).is_ok());
        let check = |text: &str, told: &str| {
            let error = Config::parse(text).expect_err(text);
            assert!(error.contains(told), "{error:?} for {text:?}");
        };
        check("", "missing field");
        check(&good.replace("format = 1", "format = 2"), "this program knows 1 only");
        check(&good.replace("abab\"", "\""), "32 hexadecimal digits");
        check(&good.replace("0001", "0000"), "other than 0");
        check(&format!("{good}[policy]\ndigests = \"never\"\n"), "unknown variant");
        check(&format!("{good}colour = 1\n"), "unknown field");
    }
}
