//! How commands talk to the daemon that serves a mount: one line of JSON each way over a socket. Who calls is told by the
//! socket.

mod client;
mod server;

use mezzo_net::server::ClientStatus;
use mezzo_net::upstream::LinkStatus;
use mezzo_replica::gate::PermitStatus;
use serde::{Deserialize, Serialize};

use crate::behind::{Process, Showing, Submount};
use crate::commands::permit::Deed;
use crate::undoing::{Report, Wish};
use crate::{demand, reintegrating};

pub use client::Client;
pub use server::Server;

/// Bytes of a request or an answer, with its line end.
pub const LINE_BYTES: usize = 128 << 10;

/// What a command asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    /// How it is.
    Status,
    /// Descriptors of the fileset's directory and its `.mezzo`, below the mount: sent beside the answer.
    Open,
    /// Record what was written and not closed yet, and make everything durable.
    Sync,
    /// Take records back, or do again what was taken back.
    Undo(Wish),
    /// Take in another replica's records. The daemon reads their log itself, so that root alone may ask.
    Reintegrate(reintegrating::Wish),
    /// Take in records that are given. Root alone may.
    Take(reintegrating::Given),
    /// Exchange everything with the server, and wait for it, at most so long.
    Exchange {
        /// Seconds.
        seconds: u64,
    },
    /// Connect to the server, or stay without a connection.
    Online {
        /// Which of them.
        online: bool,
    },
    /// Who may write, where one at a time may; or do something about it.
    Permit {
        /// What.
        deed: Option<Deed>,
        /// How long it may take.
        seconds: u64,
    },
    /// Make an invitation to the fileset.
    Invite(Invitation),
    /// The clients of the fileset.
    Clients,
    /// A client may not come any more.
    Revoke {
        /// Its number.
        client: String,
    },
    /// Offer the fileset no more, and end. Root alone may.
    End,
    /// Have files here, or no more, or tell which are not.
    Demand(demand::Wish),
}

/// What somebody is invited to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Whether they may write.
    pub write: bool,
    /// For how many seconds it is good.
    pub seconds: u64,
    /// How their users are the server's: see `mezzo invite --help`.
    pub mapping: String,
    /// Where they find the server: HOST:PORT.
    pub addresses: Vec<String>,
}

/// What the daemon answers.
#[expect(clippy::large_enum_variant, reason = "there is one answer at a time")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Open`], with two descriptors.
    Opened,
    /// To [`Request::Sync`].
    Synced {
        /// The last durable record.
        recno: u64,
    },
    /// To [`Request::Undo`].
    Undone(Report),
    /// To [`Request::Reintegrate`] and [`Request::Take`].
    Reintegrated(reintegrating::Report),
    /// To [`Request::Exchange`] and [`Request::Online`].
    Link(LinkStatus),
    /// To [`Request::Permit`]: how it is afterwards.
    Permit(PermitStatus),
    /// To [`Request::Invite`].
    Invited {
        /// The link.
        link: String,
    },
    /// To [`Request::Clients`].
    Clients {
        /// All of them.
        clients: Vec<ClientStatus>,
    },
    /// To [`Request::Revoke`] and [`Request::End`].
    Done,
    /// To [`Request::Demand`].
    Demanded(demand::Report),
    /// It was refused, or failed.
    Failed {
        /// Why.
        message: String,
    },
}

/// How a mounted fileset is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon.
    pub pid: u32,
    /// The last record.
    pub last_recno: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Objects, with the root.
    pub objects: u64,
    /// Whether data passes through the kernel.
    pub passthrough: bool,
    /// Whether requests come over io_uring.
    pub io_uring: bool,
    /// Bytes of data that the tree has no more and that is kept.
    pub attic_bytes: u64,
    /// Files of it.
    pub attic_files: u64,
    /// Versions of them of which the overwritten ranges are kept.
    #[serde(default)]
    pub attic_by_ranges: u64,
    /// Files that somebody may be writing to.
    pub open_for_writing: u64,
    /// Files whose data was lost with the power.
    pub lost_files: u64,
    /// Their sizes.
    #[serde(default)]
    pub lost_bytes: u64,
    /// Files whose bytes are not here, and can be had elsewhere.
    #[serde(default)]
    pub absent_files: u64,
    /// Their sizes.
    #[serde(default)]
    pub absent_bytes: u64,
    /// Objects that are pinned.
    #[serde(default)]
    pub pins: u64,
    /// Bytes of files that are here.
    #[serde(default)]
    pub cache_bytes: u64,
    /// How many may be.
    #[serde(default)]
    pub cache_limit: Option<u64>,
    /// Whether all files are brought.
    #[serde(default)]
    pub cache_full: bool,
    /// Where bytes come from.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Files that are being brought.
    #[serde(default)]
    pub fetching: u64,
    /// Files that somebody waits for.
    #[serde(default)]
    pub awaited: u64,
    /// Versions of data whose digests are still to be made.
    pub digests_waiting: u64,
    /// Whether the host's file system is watched for changes behind the mount.
    pub watch: bool,
    /// Records that were made while what the watch told of was looked at.
    pub watch_records: u64,
    /// How often the watch lost events, and the whole tree was compared again.
    pub watch_missed: u64,
    /// Processes that have something of the fileset's directory itself.
    pub behind_processes: Vec<Process>,
    /// Other mounts that show the fileset's directory.
    pub behind_mounts: Vec<Showing>,
    /// What is mounted in the fileset, and no part of it.
    pub submounts: Vec<Submount>,
    /// What the mount does without.
    pub without: Vec<String>,
    /// Why nothing is recorded any more, if so.
    pub broken: Option<String>,
    /// Why nothing can be changed just now, if so.
    pub trouble: Option<String>,
    /// How the comparison of the tree with the log is going.
    pub scan: String,
    /// How many clients are connected, where it is offered to any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<u64>,
    /// How the connection to the server is, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkStatus>,
}
