//! Random work on a fileset, by a seed.

use std::cell::Cell;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::time::{Duration, Instant};

use mezzo_core::{Name, ObjectId, Recno, Time};
use mezzo_replica::host::SetTime;
use mezzo_replica::replay::Range;
use mezzo_replica::{Bytes, Changes, NewNode, Sight, Use};
use mezzo_sim::shrink::shrink;
use rustix::fs::{OFlags, RenameFlags};

use super::{Bench, name, user};

const ROOT: ObjectId = ObjectId::ROOT;

/// A random number that is printed, or that `MEZZO_SEED` tells.
pub fn seed() -> u64 {
    let seed = std::env::var("MEZZO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
    });
    println!("MEZZO_SEED={seed}");
    seed
}

/// xorshift64*: enough to choose with.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Does `check` with `count` random histories: each is the seeds of so many steps. One that fails is shortened for as long as it
/// fails, and told with its steps; `MEZZO_STEPS`, the seeds with commas between them, has one history done alone.
pub fn with_histories(count: usize, length: usize, check: impl Fn(&[u64])) {
    if let Ok(steps) = std::env::var("MEZZO_STEPS") {
        let steps: Vec<u64> = steps.split(',').map(|step| step.trim().parse().unwrap()).collect();
        return check(&steps);
    }
    let mut random = Random::new(seed());
    for _ in 0..count {
        let steps: Vec<u64> = (0..length).map(|_| random.below(1 << 31)).collect();
        let Err(why) = attempt(&check, &steps) else { continue };
        let begun = Instant::now();
        let shortest =
            shrink(&steps, |part| begun.elapsed() < SHRINKING && quietly(|| attempt(&check, part)).is_err());
        let seeds: Vec<String> = shortest.iter().map(u64::to_string).collect();
        println!("a history of {} steps fails; again: MEZZO_STEPS={}", shortest.len(), seeds.join(","));
        TELLS.set(true);
        // Where it fails once more, its steps and the reason are told.
        check(&shortest);
        resume_unwind(why);
    }
}

/// How long a shorter history is looked for.
const SHRINKING: Duration = Duration::from_secs(120);

thread_local! {
    /// Whether this thread tells each step.
    static TELLS: Cell<bool> = const { Cell::new(false) };
    /// Whether nothing is told of this thread's panics.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

fn attempt(check: &impl Fn(&[u64]), steps: &[u64]) -> std::thread::Result<()> {
    // What a failed history leaves is its own.
    catch_unwind(AssertUnwindSafe(|| check(steps)))
}

fn quietly<T>(act: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                tell(panic);
            }
        }));
    });
    IS_QUIET.set(true);
    let done = act();
    IS_QUIET.set(false);
    done
}

/// Writes as a program does that opens the file for it.
pub fn write(bench: &Bench, object: ObjectId, bytes: &[u8]) {
    let replica = bench.replica();
    if replica.opening(object, Use::Write, None, Bytes::Needed).unwrap().0 == Sight::Seen {
        replica.before_change(object, 0..bytes.len() as u64);
    }
    let file = std::fs::File::from(replica.open_data(object, OFlags::WRONLY).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    drop(file);
    replica.flushed(&user(0), object).unwrap();
    replica.released(&user(0), object, Use::Write).unwrap();
}

/// A tree as it is now: what the log so far builds.
pub struct Snapshot {
    pub at: Recno,
    pub tree: tempfile::TempDir,
}

pub fn snapshot(bench: &Bench) -> Snapshot {
    let (tree, replayed) = bench.replay(Range::default());
    assert_eq!(replayed.without_data, []);
    Snapshot { at: bench.replica().last(), tree }
}

/// The operations of a step.
const OPERATIONS: [&str; 14] = [
    "create",
    "create",
    "mkdir",
    "symlink",
    "remove",
    "rename",
    "rename",
    "exchange",
    "link",
    "truncate",
    "write",
    "chmod and touch",
    "chown",
    "xattr",
];

/// One operation on a few names in a few directories; many are refused, and change nothing.
pub fn step(bench: &Bench, seed: u64) {
    let mut random = Random::new(seed);
    let replica = bench.replica();
    let names = ["a", "b", "c", "d"];
    let parents: Vec<ObjectId> = std::iter::once(ROOT)
        .chain(names.iter().filter_map(|directory| {
            let met = replica.meet(ROOT, &name(directory)).unwrap()?;
            met.entry.is_directory().then_some(met.entry.object)
        }))
        .collect();
    let (parent, other_parent) = (random.one_of(&parents), random.one_of(&parents));
    let (file, other) = (name(random.one_of(&names)), name(random.one_of(&names)));
    let caller = user(random.one_of(&[0, 1000]));
    let (here, there) = ((parent, &file), (other_parent, &other));
    let object = replica.meet(parent, &file).unwrap().map(|met| met.entry.object);
    let is_file = object.is_some_and(|object| replica.entry(object).unwrap().version().is_some());
    let operation = random.below(14);
    if TELLS.get() {
        let path = |parent, name: &Name| {
            let path = mezzo_core::name::join(&replica.index().path(parent).unwrap(), name.as_bytes());
            path.escape_ascii().to_string()
        };
        println!(
            "  {} {} [{}]",
            OPERATIONS[operation as usize],
            path(parent, &file),
            path(other_parent, &other)
        );
    }
    match (operation, object) {
        (0 | 1, _) => drop(replica.create_file(&caller, parent, &file, 0o644)),
        (2, _) => drop(replica.make(&caller, parent, &file, NewNode::Directory(0o755))),
        (3, _) => drop(replica.make(&caller, parent, &file, NewNode::Symlink(b"a"))),
        (4, _) => drop(replica.remove(&caller, parent, &file, random.below(2) == 0)),
        (5 | 6, _) => drop(replica.rename(&caller, here, there, RenameFlags::empty())),
        (7, _) => drop(replica.rename(&caller, here, there, RenameFlags::EXCHANGE)),
        (8, Some(object)) => drop(replica.link(&caller, object, other_parent, &other)),
        (9, Some(object)) if is_file => {
            let changes = Changes { size: Some(random.below(9)), ..Changes::default() };
            replica.set_attributes(&caller, object, &changes).unwrap();
        }
        (10, Some(object)) if is_file => {
            let bytes = vec![b'0' + random.below(10) as u8; 1 + random.below(2000) as usize];
            write(bench, object, &bytes);
        }
        (11, Some(object)) => {
            let mtime = SetTime::To(Time::new(random.below(2_000_000_000) as i64, 7));
            let mode = Some(random.one_of(&[0o600, 0o644, 0o755, 0o4755]));
            let is_link = !replica.entry(object).unwrap().state.target.is_empty();
            let changes = Changes { mode: mode.filter(|_| !is_link), mtime, ..Changes::default() };
            replica.set_attributes(&caller, object, &changes).unwrap();
        }
        (12, Some(object)) => {
            let owner = Some(random.one_of(&[0, 1000, 1001]));
            let changes = Changes { uid: owner, gid: owner, ..Changes::default() };
            replica.set_attributes(&caller, object, &changes).unwrap();
        }
        (13, Some(object)) if is_file => {
            let value = [b'0' + random.below(10) as u8];
            match random.below(3) {
                0 => drop(replica.remove_xattr(&caller, object, b"user.k")),
                _ => drop(replica.set_xattr(&caller, object, (b"user.k", &value), 0, false)),
            }
        }
        _ => {}
    }
}
