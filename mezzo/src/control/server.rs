//! The daemon's end.

use std::io::{self, BufRead, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mezzo_core::mapping::{Mapper, Others, Toward};
use mezzo_replica::gate::{Entrance, Pass};
use mezzo_replica::undo::Audience;
use mezzo_replica::{Caller, Replica};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::commands::permit::Deed;
use crate::links::Links;
use crate::{Failure, reintegrating, undoing};

use super::{Answer, LINE_BYTES, Request, Status};

/// How long a command may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens until dropped; the socket file goes with it.
pub struct Server {
    path: PathBuf,
    /// Kept here alone, so that the replica is closed with it: the threads that answer end with the process.
    _daemon: Arc<Daemon>,
}

/// What requests are answered from.
struct Daemon {
    replica: Arc<Replica>,
    audience: Arc<dyn Audience + Send + Sync>,
    links: Arc<Links>,
    status: Box<dyn Fn() -> Status + Send + Sync>,
}

impl Server {
    /// Listens at `path` and answers in threads of its own. `status` tells how the mount is.
    pub fn start(
        path: &Path,
        replica: Arc<Replica>,
        audience: Arc<dyn Audience + Send + Sync>,
        links: Arc<Links>,
        status: impl Fn() -> Status + Send + Sync + 'static,
    ) -> io::Result<Server> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
            // Anybody may reach the socket; what it lets them do depends on who they are.
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
        }
        // What is left of a daemon that died: this one has the fileset's lock, so that nobody listens there.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        let daemon = Arc::new(Daemon { replica, audience, links, status: Box::new(status) });
        let answering = Arc::downgrade(&daemon);
        // Ends with the process: it holds nothing that has to be put away.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(daemon) = answering.upgrade() else { return };
                std::thread::spawn(move || {
                    if let Err(error) = daemon.answer(&stream) {
                        mezzo_replica::say!("mezzo: could not answer a command: {error}");
                    }
                });
            }
        });
        Ok(Server { path: path.to_owned(), _daemon: daemon })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Daemon {
    fn answer(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = Vec::new();
        BufReader::new(stream.take(LINE_BYTES as u64)).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            // Whoever connected has nothing to ask after all.
            return Ok(());
        }
        let answer = if self.may_ask(stream)? { self.decide(&line, &asker(stream)?) } else { refusal() };
        let mut bytes = serde_json::to_vec(&answer)?;
        bytes.push(b'\n');
        let fileset = self.replica.fileset();
        let descriptors: &[BorrowedFd<'_>] = match answer {
            Answer::Opened => &[fileset.root(), fileset.own()],
            _ => &[],
        };
        send(stream, &bytes, descriptors)
    }

    /// Root and the owner of the fileset's directory may.
    fn may_ask(&self, stream: &UnixStream) -> io::Result<bool> {
        let caller = rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw();
        let owner = rustix::fs::fstat(self.replica.fileset().root())?.st_uid;
        let ids = &self.replica.fileset().ids;
        let shown = ids.mapping.shown(ids.local);
        let showing = Mapper { mapping: &shown, toward: Toward::Client, others: Others::Refused };
        let is_owner = showing.user(owner) == Ok(caller);
        Ok(caller == 0 || is_owner || caller == rustix::process::geteuid().as_raw())
    }

    /// Who asks, as the log has them. Root may do everything, also where it is nobody there.
    fn in_log(&self, asker: &Caller) -> Result<Caller, Failure> {
        let mapping = &self.replica.fileset().ids.mapping;
        let doing = Mapper { mapping, toward: Toward::Server, others: Others::Refused };
        match doing.who(&asker.who) {
            Ok(who) => Ok(Caller { who: Arc::new(who), ..asker.clone() }),
            Err(_) if asker.who.uid == 0 => Ok(asker.clone()),
            Err(unmapped) => Err(Failure::Failed(unmapped.to_string())),
        }
    }

    /// The right to change something, which may have to be waited for.
    fn pass(&self) -> Result<Option<Pass>, Failure> {
        let Some(gate) = self.replica.gate().filter(|gate| gate.is_exclusive()) else { return Ok(None) };
        let within = Duration::from_secs(self.replica.fileset().config.permit.wait_seconds);
        let failed = |why: String| Failure::Failed(format!("could not get the permit to write: {why}"));
        match gate.enter() {
            Entrance::Open(pass) => Ok(Some(pass)),
            Entrance::Closed => gate.take(within, false).map(Some).map_err(failed),
            Entrance::Refused(_) => Err(failed("mezzo permit tells more".to_owned())),
        }
    }

    fn permit(&self, deed: Option<Deed>, seconds: u64) -> Result<Answer, Failure> {
        let none =
            || Failure::Failed("there is no permit: the fileset has no server, and is none".to_owned());
        let gate = self.replica.gate().ok_or_else(none)?;
        let within = Duration::from_secs(seconds);
        let failed = |what: &str, why: String| Failure::Failed(format!("could not {what} the permit: {why}"));
        match deed {
            None => {}
            Some(Deed::Get) => drop(gate.take(within, false).map_err(|why| failed("get", why))?),
            Some(Deed::Steal) => drop(gate.take(within, true).map_err(|why| failed("steal", why))?),
            Some(Deed::Release) => gate.give_back(within).map_err(|why| failed("give back", why))?,
        }
        Ok(Answer::Permit(gate.status()))
    }

    fn decide(&self, line: &[u8], asker: &Caller) -> Answer {
        match serde_json::from_slice(line) {
            Ok(Request::Status) => Answer::Status(Status {
                link: self.links.status(),
                clients: self.links.connected(&self.replica),
                ..(self.status)()
            }),
            Ok(Request::Open) => Answer::Opened,
            Ok(Request::Sync) => match self.replica.sync_all() {
                Ok(recno) => Answer::Synced { recno: recno.0 },
                Err(error) => Answer::Failed { message: error.to_string() },
            },
            Ok(Request::Undo(wish)) => answer(self.in_log(asker).and_then(|asker| {
                let _pass = if wish.dry_run { None } else { self.pass()? };
                let undone = wish.carry_out(&self.replica, &asker, &*self.audience);
                undone.map(Answer::Undone).map_err(|error| Failure::Failed(error.to_string()))
            })),
            Ok(Request::Reintegrate(wish)) => {
                self.reintegrate(asker, |replica, audience| wish.carry_out(replica, audience))
            }
            Ok(Request::Take(given)) => {
                self.reintegrate(asker, |replica, audience| given.carry_out(replica, audience))
            }
            Ok(Request::Permit { deed, seconds }) => answer(self.permit(deed, seconds)),
            Ok(Request::Exchange { seconds }) => answer(self.links.exchange(seconds)),
            Ok(Request::Online { online }) => answer(self.links.set_online(online)),
            Ok(Request::Invite(wanted)) => answer(self.links.invite(&self.replica, &wanted)),
            Ok(Request::Clients) => answer(self.links.clients(&self.replica)),
            Ok(Request::Revoke { client }) => answer(self.links.revoke(&self.replica, &client)),
            Ok(Request::End)
                if asker.who.uid != 0 && asker.who.uid != rustix::process::geteuid().as_raw() =>
            {
                Answer::Failed { message: "only root may end the server".to_owned() }
            }
            Ok(Request::End) => answer(self.links.end_offer()),
            Ok(Request::Demand(wish)) => answer(wish.carry_out(&self.replica).map(Answer::Demanded)),
            Err(error) => Answer::Failed { message: format!("not a request: {error}") },
        }
    }
}

/// What came of it, or why nothing did.
fn answer(result: Result<Answer, Failure>) -> Answer {
    match result {
        Ok(answer) => answer,
        Err(Failure::Failed(message)) => Answer::Failed { message },
        Err(failure) => Answer::Failed { message: format!("it failed: {failure:?}") },
    }
}

impl Daemon {
    /// What the daemon may read and the caller may not is not to be had this way; and a record tells of any user.
    fn reintegrate(
        &self,
        asker: &Caller,
        carry_out: impl FnOnce(&Replica, &dyn Audience) -> Result<reintegrating::Report, Failure>,
    ) -> Answer {
        if ![0, rustix::process::geteuid().as_raw()].contains(&asker.who.uid) {
            return Answer::Failed { message: "only root may have records reintegrated".to_owned() };
        }
        answer(carry_out(&self.replica, &*self.audience).map(Answer::Reintegrated))
    }
}

/// Who is at the other end: records tell of them.
fn asker(stream: &UnixStream) -> io::Result<Caller> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let pid = peer.pid.as_raw_nonzero().get() as u32;
    Ok(undoing::caller(peer.uid.as_raw(), peer.gid.as_raw(), pid))
}

fn refusal() -> Answer {
    Answer::Failed { message: "only root and the owner of the fileset's directory may ask".to_owned() }
}

fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("there is no room for the descriptors"));
    }
    let sent =
        rustix::net::sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    io::Write::write_all(&mut &*stream, &bytes[sent..])
}
