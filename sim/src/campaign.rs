//! Many histories, each of whose steps is visited; and one that failed, again.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use clap::Parser;
use mezzo_sim::shrink::shrink;
use parking_lot::Mutex;
use rustix::mount::MountPropagationFlags;

use crate::crash::{Crash, Lane, Left};
use crate::history::{self, Operation};
use crate::host::Recording;
use crate::random::Random;
use crate::worker::Facts;

/// Crashes the simulated host of replicas at every step of random histories.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Where random numbers begin; without it, at random
    #[arg(long)]
    seed: Option<u64>,
    /// How many histories
    #[arg(long, default_value_t = 4)]
    histories: u64,
    /// Operations of a history
    #[arg(long, default_value_t = 24)]
    length: usize,
    /// Ends after so many minutes, between two visits
    #[arg(long)]
    minutes: Option<f64>,
    /// How often the power is lost at each step, each time with something else left
    #[arg(long, default_value_t = 1)]
    losses: usize,
    /// Visits this step alone
    #[arg(long)]
    step: Option<usize>,
    /// With --step: the power is lost, and this seed says what is left
    #[arg(long)]
    loss: Option<u64>,
    /// With --step: the host crashes again at this step of the recovery
    #[arg(long)]
    then_step: Option<usize>,
    /// With --then-step: as --loss
    #[arg(long)]
    then_loss: Option<u64>,
    /// These operations in place of random ones, with ; between them
    #[arg(long)]
    operations: Option<String>,
    /// With --operations: how many replicas
    #[arg(long, default_value_t = 2)]
    replicas: usize,
    /// Leaves a history that fails as long as it is
    #[arg(long)]
    whole: bool,
}

/// A history and what came of it.
struct Case {
    seed: u64,
    replicas: usize,
    history: Vec<Operation>,
    facts: Facts,
    recording: Recording,
}

/// A crash, and perhaps another in the recovery from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Visit {
    step: usize,
    crash: Crash,
    then: Option<(usize, Crash)>,
}

/// How many steps there are, and how often one was visited, by the kind of operation.
#[derive(Default)]
struct Counts(BTreeMap<&'static str, Count>);

#[derive(Default)]
struct Count {
    steps: u64,
    kills: u64,
    losses: u64,
    visited: u64,
    again: u64,
    real: u64,
}

/// Runs what was asked for; whether all was as it should be.
pub fn run(arguments: Arguments) -> io::Result<bool> {
    own_mounts()?;
    let lanes: Vec<Lane> =
        (0..std::thread::available_parallelism()?.get()).map(Lane::new).collect::<Result<_, _>>()?;
    let lane = &lanes[0];
    lane.stay();
    let seed = arguments.seed.unwrap_or_else(|| Random::new(now_ns()).next() >> 32);
    println!("seed {seed}");
    let deadline = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let mut counts = Counts::default();
    for number in 0..arguments.histories {
        let seed = seed + number;
        let (replicas, history) = arguments.history(seed)?;
        let case = match Case::perform(lane, seed, replicas, &history)? {
            Ok(case) => case,
            Err(why) => {
                println!("FAILED without any crash: {why}");
                tell(&history);
                return Ok(false);
            }
        };
        let failed = match arguments.visit() {
            Some(visit) => case.visit_alone(lane, visit)?.map(|why| (visit, why)),
            None => case.visit_all(&lanes, arguments.losses, &mut counts, deadline)?,
        };
        if let Some((visit, why)) = failed {
            case.tell_failure(visit, &why);
            if !arguments.whole {
                case.tell_shrunk(lane, visit)?;
            }
            return Ok(false);
        }
        if arguments.step.is_some()
            || arguments.operations.is_some()
            || deadline.is_some_and(|end| Instant::now() > end)
        {
            break;
        }
    }
    counts.tell();
    Ok(true)
}

/// What is mounted here is seen by nobody else, and goes with this process.
fn own_mounts() -> io::Result<()> {
    // SAFETY: no other thread is there yet, and no memory is concerned.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Arguments {
    fn history(&self, seed: u64) -> io::Result<(usize, Vec<Operation>)> {
        let Some(text) = &self.operations else {
            let mut random = Random::new(seed);
            let replicas = 2 + random.below(6).saturating_sub(3) as usize;
            return Ok((replicas, history::random(replicas, self.length, &mut random)));
        };
        let parts = text.split(';').map(str::trim).filter(|text| !text.is_empty());
        let history: Result<Vec<Operation>, _> = parts.map(str::parse).collect();
        let history = history.map_err(io::Error::other)?;
        match history.iter().find(|operation| operation.on >= self.replicas) {
            Some(operation) => Err(io::Error::other(format!("{operation}: there is no such replica"))),
            None => Ok((self.replicas, history)),
        }
    }

    fn visit(&self) -> Option<Visit> {
        let crash = |loss: Option<u64>| loss.map_or(Crash::Kill, Crash::Loss);
        let then = self.then_step.map(|step| (step, crash(self.then_loss)));
        self.step.map(|step| Visit { step, crash: crash(self.loss), then })
    }
}

fn tell(history: &[Operation]) {
    history.iter().enumerate().for_each(|(at, operation)| println!("  {:3}  {operation}", at + 1));
}

impl Case {
    /// Does a history without any crash.
    fn perform(
        lane: &Lane,
        seed: u64,
        replicas: usize,
        history: &[Operation],
    ) -> io::Result<Result<Case, String>> {
        let run = lane.perform(seed, replicas, history, None)?;
        Ok(match run.outcome {
            Some(Ok(facts)) => {
                Ok(Case { seed, replicas, history: history.to_vec(), facts, recording: run.recording })
            }
            Some(Err(why)) => Err(why),
            None => Err("the process was killed by somebody else".to_owned()),
        })
    }

    /// Crashes, and tells what is not as it should be.
    fn visit(&self, lane: &Lane, visit: Visit) -> io::Result<Option<String>> {
        Ok(self.recover(lane, visit)?.err())
    }

    /// As [`Case::visit`]; a kill is made really as well.
    fn visit_alone(&self, lane: &Lane, visit: Visit) -> io::Result<Option<String>> {
        if visit.crash == Crash::Kill
            && visit.step < self.recording.steps()
            && let Some(why) = self.kill_really(lane, visit.step)?
        {
            return Ok(Some(why));
        }
        self.visit(lane, visit)
    }

    /// Crashes, and returns the recording of the recovery, or what is not as it should be.
    fn recover(&self, lane: &Lane, visit: Visit) -> io::Result<Result<Recording, String>> {
        let at = self.recording.point(visit.step).operation as usize;
        let mut left = self.recording.left(visit.step, visit.crash);
        let mut is_loss = visit.crash != Crash::Kill;
        let mut run = self.check(lane, left, at, is_loss)?;
        if let Some((step, crash)) = visit.then
            && let Ok(recording) = &run
        {
            left = recording.left(step.min(recording.steps()), crash);
            is_loss |= crash != Crash::Kill;
            run = self.check(lane, left, at, is_loss)?;
        }
        Ok(run)
    }

    fn check(
        &self,
        lane: &Lane,
        left: Left,
        at: usize,
        is_loss: bool,
    ) -> io::Result<Result<Recording, String>> {
        let run = lane.check(left, &self.facts, at, is_loss)?;
        Ok(match run.outcome {
            Some(Ok(_)) => Ok(run.recording),
            Some(Err(why)) => Err(why),
            None => Err("the process was killed by somebody else".to_owned()),
        })
    }

    /// Visits every step in every way, on all lanes, until something fails or there is no more time.
    fn visit_all(
        &self,
        lanes: &[Lane],
        losses: usize,
        counts: &mut Counts,
        deadline: Option<Instant>,
    ) -> io::Result<Option<(Visit, String)>> {
        // In no order, so that whatever there is time for is of all kinds.
        let mut steps: Vec<usize> = (0..=self.recording.steps()).collect();
        let mut random = Random::new(self.seed);
        (1..steps.len()).rev().for_each(|at| steps.swap(at, random.below(at as u64 + 1) as usize));
        let next = AtomicUsize::new(0);
        let found = Mutex::new((counts, Ok(None)));
        let visit_some = |lane: &Lane| {
            lane.stay();
            while deadline.is_none_or(|end| Instant::now() < end)
                && let Some(step) = steps.get(next.fetch_add(1, SeqCst))
            {
                let mut count = Count { visited: 1, ..Count::default() };
                let failed = self.visit_step(lane, (*step, losses), &mut count);
                let mut found = found.lock();
                found.0.of(self.kind(*step)).add(&count);
                if !matches!(failed, Ok(None)) {
                    next.store(steps.len(), SeqCst);
                    found.1 = failed;
                }
            }
        };
        std::thread::scope(|scope| lanes.iter().for_each(|lane| drop(scope.spawn(|| visit_some(lane)))));
        let (counts, failed) = found.into_inner();
        steps.iter().for_each(|step| counts.of(self.kind(*step)).steps += 1);
        failed
    }

    /// Does the history again until its process is killed before some step, and tells if that leaves something else than what is
    /// kept of that step.
    fn kill_really(&self, lane: &Lane, step: usize) -> io::Result<Option<String>> {
        let run = lane.perform(self.seed, self.replicas, &self.history, Some(step))?;
        Ok(match run.outcome {
            None => {
                let difference = self.recording.differs_from_killed(step, &run.recording);
                difference.map(|what| format!("a real kill leaves another state than was kept: {what}"))
            }
            Some(_) => Some("the process that was to be killed ended before".to_owned()),
        })
    }

    /// Crashes there both ways, and now and then once more amid the recovery.
    fn visit_step(
        &self,
        lane: &Lane,
        (step, losses): (usize, usize),
        count: &mut Count,
    ) -> io::Result<Option<(Visit, String)>> {
        let mut random = Random::new(self.seed ^ 0x5eed ^ (step as u64) << 32);
        if step < self.recording.steps() && random.below(KILLED_REALLY) == 0 {
            count.real += 1;
            if let Some(why) = self.kill_really(lane, step)? {
                return Ok(Some((Visit { step, crash: Crash::Kill, then: None }, why)));
            }
        }
        let losses: Vec<Crash> = (0..losses).map(|_| Crash::Loss(random.below(1 << 20))).collect();
        for crash in [Crash::Kill].into_iter().chain(losses) {
            match crash {
                Crash::Kill => count.kills += 1,
                Crash::Loss(_) => count.losses += 1,
            }
            let visit = Visit { step, crash, then: None };
            let recovery = match self.recover(lane, visit)? {
                Ok(recovery) => recovery,
                Err(why) => return Ok(Some((visit, why))),
            };
            if random.below(4) != 0 || recovery.steps() == 0 {
                continue;
            }
            let crash = if random.below(2) == 0 { Crash::Kill } else { Crash::Loss(random.below(1 << 20)) };
            let then = Some((random.below(recovery.steps() as u64) as usize, crash));
            let visit = Visit { then, ..visit };
            count.again += 1;
            if let Some(why) = self.visit(lane, visit)? {
                return Ok(Some((visit, why)));
            }
        }
        Ok(None)
    }

    fn kind(&self, step: usize) -> &'static str {
        let at = self.recording.point(step).operation as usize;
        self.history.get(at - 1).map_or("end", |operation| operation.deed.kind())
    }

    fn tell_failure(&self, visit: Visit, why: &str) {
        let point = self.recording.point(visit.step);
        let operation = self.history.get(point.operation as usize - 1);
        println!("FAILED: {why}");
        println!(
            "the host crashed before step {} of {} ({}), in operation {} ({})",
            visit.step,
            self.recording.steps(),
            point.step,
            point.operation,
            operation.map_or_else(|| "the end".to_owned(), Operation::to_string)
        );
        println!("again: sim --seed {} --length {}{}", self.seed, self.history.len(), visit.arguments());
        tell(&self.history);
    }

    /// The shortest history that fails in the same operation in the same way.
    fn tell_shrunk(&self, lane: &Lane, visit: Visit) -> io::Result<()> {
        let at = self.recording.point(visit.step).operation as usize;
        let before = &self.history[..(at - 1).min(self.history.len())];
        let last = self.history.get(at - 1);
        let end = Instant::now() + SHRINKING;
        let (mut failure, mut trouble) = (None, None);
        let mut fails = |before: &[Operation]| {
            let history: Vec<Operation> = before.iter().chain(last).cloned().collect();
            match first_failure(lane, (self.seed, self.replicas), &history, visit, end) {
                Ok(None) => false,
                Ok(found) => {
                    failure = found.map(|found| (history, found));
                    true
                }
                Err(error) => {
                    trouble = Some(error);
                    false
                }
            }
        };
        if fails(before) {
            shrink(before, &mut fails);
        }
        if let Some(error) = trouble {
            return Err(error);
        }
        let Some((history, (visit, why))) = failure else {
            println!("no shorter history fails so");
            return Ok(());
        };
        println!("a shorter history fails with: {why}");
        tell(&history);
        let operations: Vec<String> = history.iter().map(Operation::to_string).collect();
        println!(
            "again: sim --seed {} --replicas {} --operations '{}'{}",
            self.seed,
            self.replicas,
            operations.join("; "),
            visit.arguments()
        );
        Ok(())
    }
}

/// Of how many steps one is come to once more, by a process that is really killed there.
const KILLED_REALLY: u64 = 16;

/// How long a shorter history is looked for.
const SHRINKING: Duration = Duration::from_secs(60);

/// The first crash in the last operation that is like `like` and fails.
fn first_failure(
    lane: &Lane,
    (seed, replicas): (u64, usize),
    history: &[Operation],
    like: Visit,
    end: Instant,
) -> io::Result<Option<(Visit, String)>> {
    let Ok(case) = Case::perform(lane, seed, replicas, history)? else { return Ok(None) };
    let steps = 0..=case.recording.steps();
    for step in steps.filter(|step| case.recording.point(*step).operation as usize >= history.len()) {
        // What a loss leaves is random: one that fails needs some tries.
        let tries = if like.crash == Crash::Kill { 1 } else { 4 };
        for number in 0..tries {
            if Instant::now() > end {
                return Ok(None);
            }
            let crash = match like.crash {
                Crash::Kill => Crash::Kill,
                Crash::Loss(seed) => Crash::Loss(seed + number),
            };
            let visit = Visit { step, crash, ..like };
            if let Some(why) = case.visit(lane, visit)? {
                return Ok(Some((visit, why)));
            }
        }
    }
    Ok(None)
}

impl Visit {
    fn arguments(&self) -> String {
        let loss = |crash: Crash, word: &str| match crash {
            Crash::Kill => String::new(),
            Crash::Loss(seed) => format!(" --{word} {seed}"),
        };
        let then = self.then.map_or_else(String::new, |(step, crash)| {
            format!(" --then-step {step}{}", loss(crash, "then-loss"))
        });
        format!(" --step {}{}{then}", self.step, loss(self.crash, "loss"))
    }
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.steps += other.steps;
        self.kills += other.kills;
        self.losses += other.losses;
        self.visited += other.visited;
        self.again += other.again;
        self.real += other.real;
    }
}

impl Counts {
    fn of(&mut self, kind: &'static str) -> &mut Count {
        self.0.entry(kind).or_default()
    }

    fn tell(&self) {
        println!(
            "{:10} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7}",
            "operation", "steps", "visited", "kills", "losses", "again", "real"
        );
        let mut total = Count::default();
        self.0.values().for_each(|count| total.add(count));
        for (kind, count) in self.0.iter().map(|(kind, count)| (*kind, count)).chain([("all", &total)]) {
            let Count { steps, visited, kills, losses, again, real } = count;
            println!("{kind:10} {steps:7} {visited:8} {kills:7} {losses:7} {again:7} {real:7}");
        }
    }
}
