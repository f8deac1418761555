//! Runs of a history, and crashes of its host.

use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::history::Operation;
use crate::host::{Mounted, Point, Recording, Served, State};
use crate::page::Page;
use crate::random::Random;
use crate::worker::{Facts, LOOKING, RECOVERY, Task};

/// Seconds after which a process that does no more is ended.
const PATIENCE_S: u32 = 120;

/// How the host crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed, and the host goes on.
    Kill,
    /// The power is lost. This seed says what is left of what was not durable.
    Loss(u64),
}

/// Where hosts are mounted, one after the other.
pub struct Lane {
    processor: usize,
    directory: tempfile::TempDir,
    page: Arc<Page>,
}

/// What came of a run.
pub struct Run {
    /// `None` where the process was killed.
    pub outcome: Option<Result<Facts, String>>,
    pub recording: Recording,
}

impl Lane {
    pub fn new(processor: usize) -> io::Result<Lane> {
        Ok(Lane { processor, directory: tempfile::tempdir()?, page: Arc::new(Page::new()?) })
    }

    /// Keeps the calling thread, and what it starts, on the lane's processor: where who asks and who answers share one, an answer
    /// takes a fifth of the time.
    pub fn stay(&self) {
        let mut processors = rustix::thread::CpuSet::new();
        processors.set(self.processor);
        // Where it may not, it is only slower.
        let _ = rustix::thread::sched_setaffinity(None, &processors);
    }

    /// Does a history from its beginning; with `kill_before`, until its process is killed before that step.
    pub fn perform(
        &self,
        seed: u64,
        replicas: usize,
        history: &[Operation],
        kill_before: Option<usize>,
    ) -> io::Result<Run> {
        let begin = (1_800_000_000_000_000_000, Random::new(seed).next());
        self.page.set(begin);
        let state = State::new(self.page.now());
        let task = Task::Perform { replicas, history: history.iter().map(Operation::to_string).collect() };
        self.run(state, &task, 1..history.len() as u64 + 1, kill_before)
    }

    /// Looks at what a crash left.
    pub fn check(&self, left: Left, facts: &Facts, at: usize, is_loss: bool) -> io::Result<Run> {
        self.page.set(left.clock);
        let task = Task::Check { facts: facts.clone(), at, loss: is_loss };
        self.run(left.state, &task, RECOVERY..LOOKING, None)
    }

    fn run(
        &self,
        state: State,
        task: &Task,
        recorded: std::ops::Range<u64>,
        kill_before: Option<usize>,
    ) -> io::Result<Run> {
        self.page.set_operation(0);
        let served = Arc::new(Served::new(self.page.clone(), state, recorded, kill_before));
        let host = self.directory.path().join("host");
        let mounted = Mounted::new(&host, served.clone())?;
        let mut worker = start(host, self.page.fd())?;
        served.user.store(worker.id() as i32, SeqCst);
        let mut input = worker.stdin.take().expect("it has one");
        // It may be gone before it has read all.
        let _ = input.write_all(serde_json::to_string(task)?.as_bytes());
        drop(input);
        let output = worker.wait_with_output()?;
        served.user.store(0, SeqCst);
        mounted.end()?;
        let recording = served.take();
        let outcome = match serde_json::from_slice(&output.stdout) {
            Ok(outcome) => Some(outcome),
            Err(_) if output.status.signal() == Some(libc::SIGKILL) => None,
            Err(_) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Some(Err(format!("the process ended with {}: {}", output.status, said.trim())))
            }
        };
        Ok(Run { outcome, recording })
    }
}

fn start(host: PathBuf, page: RawFd) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("worker").arg(host).arg(page.to_string()).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: both calls take numbers, and may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::alarm(PATIENCE_S);
            Ok(())
        });
    }
    command.spawn()
}

/// A host after a crash.
#[derive(Clone)]
pub struct Left {
    pub state: State,
    clock: (u64, u64),
}

impl Recording {
    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.0.len() - 1
    }

    pub fn point(&self, moment: usize) -> &Point {
        &self.0[moment]
    }

    /// What is left when the host crashes after so many steps.
    pub fn left(&self, moment: usize, crash: Crash) -> Left {
        let point = self.point(moment);
        let latest = with_mapped(point);
        let state = match crash {
            Crash::Kill => latest.without_nameless(),
            Crash::Loss(seed) => {
                let states = |at: usize| if at == moment { &latest } else { &self.0[at].state };
                let mut random = Random::new(seed ^ (moment as u64) << 32);
                let mut state = point.disk.left(&states, moment, &mut random);
                forget_boot(&mut state);
                state
            }
        };
        Left { state, clock: point.clock }
    }
}

impl Recording {
    /// Where a process that really was killed before step `step` left, as `killed` has it, something else than is told of that here.
    /// The page cache brings what was written into mappings at times of its own.
    pub fn differs_from_killed(&self, step: usize, killed: &Recording) -> Option<String> {
        let timeless: Vec<u64> = self.point(step).mapped.0.iter().map(|(inode, _)| *inode).collect();
        let killed = killed.0.last().expect("the last point is the end");
        let killed = killed.state.clone().without_nameless();
        self.left(step, Crash::Kill).state.difference(&killed, &timeless)
    }
}

/// The host when the page cache has brought what was written into mappings.
fn with_mapped(point: &Point) -> State {
    let mut state = point.state.clone();
    for (number, bytes) in point.mapped.0.iter() {
        if let Ok(data) = state.inode_mut(*number).and_then(|inode| inode.data_mut())
            && data.size >= bytes.len() as u64
        {
            data.write(0, bytes);
        }
    }
    state
}

/// The machine was not really restarted, so that the boot that each LML tells of has to be made another one.
fn forget_boot(state: &mut State) {
    for replica in 0.. {
        let name = format!("r{replica}");
        if state.find(&[name.as_bytes()]).is_err() {
            break;
        }
        let Ok(lml) = state.find(&[name.as_bytes(), b".mezzo", b"lml"]) else { continue };
        if let Ok(data) = state.inode_mut(lml).and_then(|inode| inode.data_mut())
            && data.size >= 24
        {
            data.write(8, &[0; 16]);
        }
    }
}
