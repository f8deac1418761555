//! Where one at a time may write: users' changes wait here for the permit, before they take the order.
//!
//! What this program does by itself, such as taking in what was changed behind the mount, passes by.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mezzo_core::ReplicaId;
use mezzo_core::session::message::Permit;
use mezzo_core::session::permit::{Holder, Move, Usage};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::fileset::own_path;
use crate::host::write_whole;
use crate::replica::Replica;

/// What is known of the permit, in `.mezzo`.
const FILE: &str = "permit";

/// How often it is looked whether those who wait are still there, and what is recalled is used no more.
const OFTEN: Duration = Duration::from_millis(50);

/// How often it is looked whether the permit is used.
const SELDOM: Duration = Duration::from_secs(1);

/// `[permit]` in `fileset.toml`: the server's says whether writers need it, each replica's what becomes of those who have to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PermitPolicy {
    /// Who may write.
    pub mode: PermitMode,
    /// What becomes of a change for which there is no permit.
    pub when_refused: WhenRefused,
    /// How long a change waits at most; then it is refused with EROFS.
    pub wait_seconds: u64,
}

/// Who may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PermitMode {
    /// All, and conflicts are resolved.
    #[default]
    Optimistic,
    /// Who holds the permit.
    Exclusive,
}

/// What becomes of a change for which there is no permit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenRefused {
    /// It waits, until the permit is here or a signal comes.
    #[default]
    Wait,
    /// EROFS, where another holds the permit or nobody can be asked for it.
    Erofs,
}

impl Default for PermitPolicy {
    fn default() -> PermitPolicy {
        PermitPolicy { mode: PermitMode::default(), when_refused: WhenRefused::default(), wait_seconds: 60 }
    }
}

/// What is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    exclusive: bool,
    permit: Permit,
    lost: Option<u64>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    exclusive: bool,
    epoch: u64,
    holder: String,
    at: u64,
    stolen: bool,
    /// The epoch of a permit that was taken away before everything was sent; 0 for none.
    lost: u64,
}

/// How the permit stands, as far as is known here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermitStatus {
    /// `optimistic` or `exclusive`.
    pub mode: String,
    /// Its epoch: one more for each holder.
    pub epoch: u64,
    /// The replica that holds it.
    pub holder: Option<String>,
    /// It is held here.
    pub here: bool,
    /// The last record of the server's log before it was taken.
    pub at: u64,
    /// It was stolen from a holder that could not be reached.
    pub stolen: bool,
    /// Another needs it, and it is given back as soon as everything is sent.
    pub recalled: bool,
    /// Changes that wait for it here.
    pub waiting: u64,
    /// The epoch of a permit that was taken away from here before everything was sent that was made under it.
    pub lost: Option<u64>,
}

/// The right of one change to be made.
#[derive(Debug)]
pub struct Pass(Option<Arc<Gate>>);

/// Whether a change may be made.
#[derive(Debug)]
pub enum Entrance {
    /// As long as this is kept.
    Open(Pass),
    /// [`Gate::wait`] for it.
    Closed,
    /// Not at all: the error number.
    Refused(i32),
}

/// A change that waits.
pub trait Waiting: Send {
    /// Whether nobody waits for it any more.
    fn is_gone(&self) -> bool;

    /// It may be made as long as the pass is kept, or is refused with this error number. Called on the gate's thread.
    fn go_on(self: Box<Self>, outcome: Result<Pass, i32>);
}

/// What the gate asks of who keeps the permit, in that order: it is called with the gate's lock, and only sends.
type Office = Box<dyn Fn(Move) + Send + Sync>;

/// The gate of one replica.
pub struct Gate {
    own: OwnedFd,
    policy: PermitPolicy,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    exclusive: bool,
    holder: Holder,
    written: Known,
    /// Changes that are being made.
    inside: usize,
    /// How many were ever let in.
    entered: u64,
    waiting: Vec<(Instant, Box<dyn Waiting>)>,
    /// Commands that wait.
    takers: usize,
    admitted: Vec<Box<dyn Waiting>>,
    /// Why it could not be stolen.
    denied: Option<String>,
    is_ended: bool,
    office: Option<Office>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            let mut state = gate.state.lock();
            state.inside -= 1;
            if state.holder.is_recalled() {
                gate.changed.notify_all();
            }
        }
    }
}

impl Gate {
    /// The gate of the replica, as it was when it was written down last. Nobody waits long before [`Gate::serve`].
    pub fn open(replica: &Replica) -> io::Result<Arc<Gate>> {
        let fileset = replica.fileset();
        let own = fileset.own().try_clone_to_owned()?;
        let known = Known::read(own.as_fd())?;
        let state = State {
            exclusive: known.exclusive,
            holder: Holder::new(fileset.config.replica, known.permit, known.lost),
            written: known,
            inside: 0,
            entered: 0,
            waiting: Vec::new(),
            takers: 0,
            admitted: Vec::new(),
            denied: None,
            is_ended: false,
            office: None,
        };
        let (policy, state) = (fileset.config.permit.clone(), Mutex::new(state));
        Ok(Arc::new(Gate { own, policy, state, changed: Condvar::new() }))
    }

    /// Sees to those who wait, in a thread of its own, until [`Gate::end`]. `look` tells whether there is something that the server has
    /// not acknowledged, and up to where its log is here; `office` asks who keeps the permit.
    pub fn serve(
        self: &Arc<Gate>,
        replica: &Arc<Replica>,
        look: impl Fn() -> (bool, u64) + Send + 'static,
        office: impl Fn(Move) + Send + Sync + 'static,
    ) -> io::Result<()> {
        self.state.lock().office = Some(Box::new(office));
        let (gate, replica) = (self.clone(), Arc::downgrade(replica));
        let started = Instant::now();
        let run = move || while gate.see_to_all(&replica, &look, started) {};
        std::thread::Builder::new().name("permit".into()).spawn(run).map(drop)
    }

    /// Nobody is let in any more who has to wait.
    pub fn end(&self) {
        let mut state = self.state.lock();
        (state.is_ended, state.office) = (true, None);
        self.changed.notify_all();
    }

    /// A user wants to change something.
    pub fn enter(self: &Arc<Gate>) -> Entrance {
        let mut state = self.state.lock();
        if !state.exclusive {
            return Entrance::Open(Pass(None));
        }
        if state.holder.lets_in() {
            return Entrance::Open(self.pass(&mut state));
        }
        if state.holder.lost().is_some() || state.is_ended {
            return Entrance::Refused(libc::EROFS);
        }
        if self.policy.when_refused == WhenRefused::Wait || state.holder.is_free() {
            return Entrance::Closed;
        }
        let asked = state.holder.want();
        self.act(state, asked);
        Entrance::Refused(libc::EROFS)
    }

    fn pass(self: &Arc<Gate>, state: &mut State) -> Pass {
        state.inside += 1;
        state.entered += 1;
        Pass(Some(self.clone()))
    }

    /// Goes on with `waiting` when the permit is here.
    pub fn wait(&self, waiting: Box<dyn Waiting>) {
        let mut state = self.state.lock();
        let until = Instant::now() + Duration::from_secs(self.policy.wait_seconds);
        state.waiting.push((until, waiting));
        let asked = state.holder.want();
        self.changed.notify_all();
        self.act(state, asked);
    }

    /// More of the server's log is here: those who wait for it may go on.
    pub fn came(&self) {
        if !self.state.lock().waiting.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Those who wait now get in, whatever is recalled next.
    fn admit(&self, state: &mut State) {
        if !state.exclusive || state.holder.lets_in() {
            if state.waiting.is_empty() {
                if state.takers > 0 {
                    // It is for a command.
                    self.changed.notify_all();
                }
                return;
            }
            state.holder.let_in();
            let admitted: Vec<_> = state.waiting.drain(..).map(|(_, waiting)| waiting).collect();
            state.inside += admitted.len();
            state.entered += admitted.len() as u64;
            state.admitted.extend(admitted);
        }
    }

    /// Does what the holder says, before anybody else has it say something: who asks for it anew must not overtake who gives it back.
    fn act(&self, mut state: parking_lot::MutexGuard<'_, State>, step: Option<Move>) {
        if let Err(error) = self.write_down(&mut state) {
            crate::say!("mezzo: could not note who holds the permit: {error}");
        }
        if let (Some(step), Some(office)) = (step, &state.office) {
            office(step);
        }
    }

    fn write_down(&self, state: &mut State) -> io::Result<()> {
        let known =
            Known { exclusive: state.exclusive, permit: state.holder.permit(), lost: state.holder.lost() };
        if known != state.written {
            known.write(self.own.as_fd())?;
            state.written = known;
        }
        Ok(())
    }

    /// There is a connection to who keeps the permit, which is this. Durable when it returns.
    pub fn connected(&self, permit: Permit, exclusive: bool) {
        let mut state = self.state.lock();
        state.exclusive = exclusive;
        let step = state.holder.connected(permit);
        self.changed.notify_all();
        self.act(state, step);
    }

    /// There is none any more.
    pub fn disconnected(&self) {
        self.state.lock().holder.disconnected();
        self.changed.notify_all();
    }

    /// The permit is this now: durable when it returns.
    pub fn told(&self, permit: Permit) -> io::Result<()> {
        let mut state = self.state.lock();
        let step = state.holder.is(permit);
        self.write_down(&mut state)?;
        self.changed.notify_all();
        self.act(state, step);
        Ok(())
    }

    /// Another needs that of this epoch.
    pub fn recalled(&self, epoch: u64) {
        self.state.lock().holder.recalled(epoch);
        self.changed.notify_all();
    }

    /// It could not be stolen.
    pub fn denied(&self, why: String) {
        self.state.lock().denied = Some(why);
        self.changed.notify_all();
    }

    /// Under which epoch records are sent; 0 for none.
    pub fn epoch(&self) -> u64 {
        self.state.lock().holder.epoch()
    }

    /// Whether writers need the permit.
    pub fn is_exclusive(&self) -> bool {
        self.state.lock().exclusive
    }

    /// The permit as it is known here.
    pub fn permit(&self) -> Permit {
        self.state.lock().holder.permit()
    }

    /// How it stands, for people.
    pub fn status(&self) -> PermitStatus {
        let state = self.state.lock();
        let Permit { epoch, holder, at, stolen } = state.holder.permit();
        PermitStatus {
            mode: if state.exclusive { "exclusive" } else { "optimistic" }.to_owned(),
            epoch,
            holder: (holder != 0).then(|| ReplicaId(holder).to_string()),
            here: state.holder.holds(),
            at,
            stolen,
            recalled: state.holder.is_recalled(),
            waiting: state.waiting.len() as u64,
            lost: state.holder.lost(),
        }
    }

    /// Waits for the permit, also for what was made under one that was taken away; with `steal` it is taken from who can't be reached,
    /// or does not give it back. The error says why it is not here.
    pub fn take(self: &Arc<Gate>, within: Duration, steal: bool) -> Result<Pass, String> {
        let until = Instant::now() + within;
        let mut state = self.state.lock();
        if !state.exclusive {
            return Err("all may write in this fileset (permit.mode is optimistic)".to_owned());
        }
        state.denied = None;
        state.takers += 1;
        let step = state.holder.resume();
        self.act(state, if steal { Some(Move::Steal) } else { step });
        let mut state = self.state.lock();
        loop {
            if state.holder.lets_in() {
                state.holder.let_in();
                state.takers -= 1;
                return Ok(self.pass(&mut state));
            }
            if let Some(why) = state.denied.take() {
                state.takers -= 1;
                return Err(why);
            }
            if let Some(step) = state.holder.want() {
                // It was here, and went before this looked.
                self.act(state, Some(step));
                state = self.state.lock();
                continue;
            }
            if state.is_ended || self.changed.wait_until(&mut state, until).timed_out() {
                state.takers -= 1;
                state.holder.want_no_more();
                let Permit { holder, .. } = state.holder.permit();
                return Err(match holder {
                    0 => "there is no answer from the server".to_owned(),
                    holder => format!("replica {} holds it", ReplicaId(holder)),
                });
            }
        }
    }

    /// Gives the permit back as soon as everything is sent, and waits for that.
    pub fn give_back(&self, within: Duration) -> Result<(), String> {
        let until = Instant::now() + within;
        let mut state = self.state.lock();
        state.holder.give_back();
        self.changed.notify_all();
        while state.holder.holds() {
            if state.is_ended || self.changed.wait_until(&mut state, until).timed_out() {
                return Err("it is in use, or not everything is sent that was made under it".to_owned());
            }
        }
        Ok(())
    }

    /// One look at everything; false at the end.
    fn see_to_all(
        self: &Arc<Gate>,
        replica: &Weak<Replica>,
        look: &dyn Fn() -> (bool, u64),
        started: Instant,
    ) -> bool {
        let (seen, was_inside, exclusive) = {
            let state = self.state.lock();
            (state.entered, state.inside > 0, state.exclusive)
        };
        let Some(replica) = replica.upgrade() else { return false };
        let used = exclusive && replica.has_writers();
        let (is_pending, received) = if exclusive { look() } else { (false, 0) };
        drop(replica);
        let mut state = self.state.lock();
        state.holder.received(received);
        self.admit(&mut state);
        let now = Instant::now();
        let mut out = Vec::new();
        let is_ended = state.is_ended;
        for (until, waiting) in std::mem::take(&mut state.waiting) {
            match waiting.is_gone() {
                true => {}
                false if until <= now || is_ended => out.push(waiting),
                false => state.waiting.push((until, waiting)),
            }
        }
        let admitted = std::mem::take(&mut state.admitted);
        if admitted.is_empty() && out.is_empty() {
            // What was made during the look may be open, or not sent, whatever it found.
            let is_in_use = used || was_inside || state.inside > 0 || state.entered != seen;
            let is_awaited = !state.waiting.is_empty() || state.takers > 0;
            let usage = Usage { is_in_use: is_in_use || is_awaited && state.holder.is_new(), is_pending };
            let step =
                if state.exclusive { state.holder.tick(started.elapsed().as_secs(), usage) } else { None };
            if step.is_some() {
                self.act(state, step);
                self.changed.notify_all();
                return true;
            }
            if is_ended {
                return false;
            }
            let is_urgent = is_awaited || state.holder.is_recalled();
            match (is_urgent, state.exclusive) {
                (true, _) => drop(self.changed.wait_for(&mut state, OFTEN)),
                (false, true) => drop(self.changed.wait_for(&mut state, SELDOM)),
                (false, false) => self.changed.wait(&mut state),
            }
            return true;
        }
        drop(state);
        out.into_iter().for_each(|waiting| waiting.go_on(Err(libc::EROFS)));
        admitted.into_iter().for_each(|waiting| waiting.go_on(Ok(Pass(Some(self.clone())))));
        true
    }
}

impl Known {
    fn read(own: BorrowedFd<'_>) -> io::Result<Known> {
        let text = match std::fs::read_to_string(own_path(own, FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
            Err(error) => return Err(error),
        };
        let damaged = |why: String| io::Error::other(format!("could not use .mezzo/{FILE}: {why}"));
        let file: File = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let holder = match file.holder.as_str() {
            "" => 0,
            id => id.parse::<ReplicaId>().map_err(|_| damaged(format!("holder is {id}")))?.0,
        };
        let permit = Permit { epoch: file.epoch, holder, at: file.at, stolen: file.stolen };
        Ok(Known { exclusive: file.exclusive, permit, lost: (file.lost != 0).then_some(file.lost) })
    }

    fn write(&self, own: BorrowedFd<'_>) -> io::Result<()> {
        let Permit { epoch, holder, at, stolen } = self.permit;
        let holder = if holder == 0 { String::new() } else { ReplicaId(holder).to_string() };
        let file = File {
            exclusive: self.exclusive,
            epoch,
            holder,
            at,
            stolen,
            lost: self.lost.unwrap_or_default(),
        };
        write_whole(own, FILE, toml::to_string(&file).map_err(io::Error::other)?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_reads_back_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let own = std::fs::File::open(directory.path()).unwrap();
        assert_eq!(Known::read(own.as_fd()).unwrap(), Known::default());
        for (holder, lost) in [(0, None), (0x12, Some(3))] {
            let permit = Permit { epoch: 4, holder, at: 7, stolen: lost.is_some() };
            let known = Known { exclusive: true, permit, lost };
            known.write(own.as_fd()).unwrap();
            assert_eq!(Known::read(own.as_fd()).unwrap(), known);
        }
        std::fs::write(directory.path().join(FILE), "holder = \"x\"").unwrap();
        assert!(Known::read(own.as_fd()).is_err());
    }
}
