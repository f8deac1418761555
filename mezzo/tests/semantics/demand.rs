//! Files without their bytes are filled when somebody opens them, and emptied of what others have.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::common::{Ended, Host, Mounted, Process, ROOT, SmallHost, errno, eventually, mezzo, succeeds};

/// A second replica, which has names alone, and is mounted for the length of a test.
struct Lacking {
    path: PathBuf,
    /// The directory below the mount.
    root: File,
    source: PathBuf,
    daemon: Option<Pid>,
}

impl Lacking {
    /// Mounted, with the bytes to be had from `m`'s mount.
    fn of(m: &Mounted) -> Lacking {
        let mut lacking = Lacking::unmounted(m, m.path(""));
        lacking.mount();
        lacking
    }

    fn unmounted(m: &Mounted, source: PathBuf) -> Lacking {
        Lacking::unmounted_at(m, source, replica_of(m, "lacking"))
    }

    fn unmounted_at(m: &Mounted, source: PathBuf, path: PathBuf) -> Lacking {
        succeeds(
            mezzo().arg("reintegrate").arg(m.path("")).arg("--onto").arg(&path).args(["--data", "absent"]),
        );
        Lacking { root: File::open(&path).unwrap(), path, source, daemon: None }
    }

    fn mount(&mut self) {
        succeeds(mezzo().arg("mount").arg("--fetch-from").arg(&self.source).arg(&self.path));
        self.daemon = Pid::from_raw(self.status()["pid"].as_i64().unwrap() as i32);
        eventually("the comparison is done", || {
            self.status()["scan"].as_str().is_some_and(|scan| scan.starts_with("done"))
        });
    }

    fn path(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// The same below the mount.
    fn host(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd())).join(path)
    }

    fn status(&self) -> Value {
        json(&succeeds(mezzo().arg("status").arg("--json").arg(&self.path)))
    }

    fn set_cache(&self, cache: &str) {
        let path = self.path(".mezzo/fileset.toml");
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("\n[cache]").next().unwrap().to_owned();
        fs::write(path, format!("{text}\n[cache]\n{cache}\n")).unwrap();
    }

    fn is_absent(&self, path: &str) -> bool {
        rustix::fs::lgetxattr(self.host(path), "trusted.mezzo.absent", &mut [0u8; 8]).is_ok()
    }

    fn kill_daemon(&mut self) {
        let daemon = self.daemon.take().unwrap();
        let end = rustix::process::pidfd_open(daemon, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::kill_process(daemon, Signal::KILL).unwrap();
        let mut ended = [rustix::event::PollFd::new(&end, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).unwrap();
        rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

impl Drop for Lacking {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            if std::thread::panicking()
                && let Ok(log) = fs::read_to_string(self.host(".mezzo/daemon.log"))
            {
                eprintln!("the daemon said: {log}");
            }
            let _ = mezzo().arg("unmount").arg(&self.path).output();
        }
    }
}

fn replica_of(m: &Mounted, name: &str) -> PathBuf {
    let other = m.beside(name);
    fs::remove_dir(&other).unwrap();
    succeeds(mezzo().arg("init").arg(&other).arg("--replica-of").arg(m.path("")));
    other
}

/// A replica with everything, which nobody serves.
fn full_replica_of(m: &Mounted) -> PathBuf {
    let other = replica_of(m, "full");
    succeeds(mezzo().arg("reintegrate").arg(m.path("")).arg("--onto").arg(&other));
    other
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn truncate(path: &Path, size: i64) -> std::io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is NUL-terminated.
    match unsafe { libc::truncate(path.as_ptr(), size) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn make_executable(path: &Path, from: &str) {
    fs::copy(from, path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_absent_file_is_filled_when_it_is_opened() {
    for host in [Host::Ext4, Host::Xfs] {
        let m = Mounted::on(host);
        let bytes = vec![b'x'; 3 << 20];
        fs::write(m.path("f"), &bytes).unwrap();
        fs::hard_link(m.path("f"), m.path("l")).unwrap();
        for name in ["a", "mapped", "from", "cut"] {
            fs::write(m.path(name), "some bytes").unwrap();
        }
        make_executable(&m.path("program"), "/bin/true");
        let sparse = File::create(m.path("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        sparse.write_at(b"end", (64 << 20) - 3).unwrap();
        drop(sparse);
        let other = Lacking::of(&m);
        let shown = |path: &str| {
            let found = fs::metadata(other.path(path)).unwrap();
            (found.len(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec(), found.nlink())
        };
        let before = (shown("f"), shown("sparse"));
        let status = other.status();
        assert_eq!((status["absent_files"].as_u64(), status["lost_files"].as_u64()), (Some(7), Some(0)));
        let last = status["last_recno"].clone();
        assert!(fs::read(other.path("l")).unwrap() == bytes);
        assert!(fs::read(other.path("f")).unwrap() == bytes, "by its other name too");
        let sparse = File::open(other.path("sparse")).unwrap();
        let mut end = [0; 3];
        sparse.read_exact_at(&mut end, (64 << 20) - 3).unwrap();
        assert_eq!(&end, b"end");
        assert!(sparse.metadata().unwrap().blocks() < 1024, "holes stay holes");
        assert_eq!((shown("f"), shown("sparse")), before);
        assert_eq!(other.status()["last_recno"], last, "nothing is recorded of it");
        assert!(Command::new(other.path("program")).status().unwrap().success());
        let mapped = File::open(other.path("mapped")).unwrap();
        // SAFETY: the length is that of the file, and the descriptor is open.
        let map = unsafe {
            libc::mmap(std::ptr::null_mut(), 10, libc::PROT_READ, libc::MAP_SHARED, mapped.as_raw_fd(), 0)
        };
        assert!(map != libc::MAP_FAILED);
        // SAFETY: ten bytes are mapped for reading.
        assert_eq!(unsafe { std::slice::from_raw_parts(map.cast::<u8>(), 10) }, b"some bytes");
        let appended = File::options().append(true).open(other.path("a")).unwrap();
        std::io::Write::write_all(&mut &appended, b" more").unwrap();
        drop(appended);
        assert_eq!(fs::read_to_string(other.path("a")).unwrap(), "some bytes more");
        fs::copy(other.path("from"), other.path("copied")).unwrap();
        assert_eq!(fs::read_to_string(other.path("copied")).unwrap(), "some bytes");
        truncate(&other.path("cut"), 4).unwrap();
        assert_eq!(fs::read_to_string(other.path("cut")).unwrap(), "some");
        assert_eq!(other.status()["absent_files"], 0);
        // SAFETY: it was mapped above, and nothing refers to it.
        unsafe { libc::munmap(map, 10) };
        drop((mapped, sparse));
        succeeds(mezzo().arg("unmount").arg(&other.path));
        succeeds(mezzo().arg("verify").arg(&other.path));
    }
}

#[test]
fn several_who_open_an_absent_file_get_it_at_once() {
    let m = Mounted::new();
    fs::write(m.path("f"), vec![b'x'; 8 << 20]).unwrap();
    for number in 0..50 {
        fs::write(m.path(&format!("small-{number}")), format!("bytes of {number}")).unwrap();
    }
    let other = Lacking::of(&m);
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let other = &other;
            scope.spawn(move || {
                assert_eq!(fs::read(other.path("f")).unwrap().len(), 8 << 20);
                for number in 0..50 {
                    let number = (number + reader * 7) % 50;
                    let bytes = fs::read_to_string(other.path(&format!("small-{number}"))).unwrap();
                    assert_eq!(bytes, format!("bytes of {number}"));
                }
            });
        }
    });
    assert_eq!(other.status()["absent_files"], 0);
}

#[test]
fn without_a_connection_an_absent_file_is_refused_at_once() {
    let m = Mounted::new();
    fs::write(m.path("f"), "bytes").unwrap();
    fs::write(m.path("g"), "bytes").unwrap();
    let source = full_replica_of(&m);
    let away = source.with_file_name("away");
    let mut other = Lacking::unmounted(&m, source.clone());
    fs::rename(&source, &away).unwrap();
    other.mount();
    for _ in 0..20 {
        assert_eq!(errno(fs::read(other.path("f"))), libc::EHOSTUNREACH);
        assert_eq!(errno(File::options().append(true).open(other.path("g"))), libc::EHOSTUNREACH);
    }
    assert_eq!(errno(truncate(&other.path("f"), 2)), libc::EHOSTUNREACH);
    let log = fs::read_to_string(other.host(".mezzo/daemon.log")).unwrap();
    assert_eq!(log.matches("bytes of absent files do not come: offline").count(), 1, "{log}");
    // Everything that needs no bytes goes on.
    fs::rename(other.path("f"), other.path("h")).unwrap();
    fs::set_permissions(other.path("h"), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(other.path("h")).unwrap().len(), 5);
    fs::remove_file(other.path("g")).unwrap();
    fs::rename(&away, &source).unwrap();
    assert_eq!(fs::read_to_string(other.path("h")).unwrap(), "bytes");
    assert_eq!(fs::metadata(other.path("h")).unwrap().mode() & 0o777, 0o600);
    let log = fs::read_to_string(other.host(".mezzo/daemon.log")).unwrap();
    assert_eq!(log.matches("come again").count(), 1, "{log}");
}

#[test]
fn a_file_that_is_emptied_when_it_is_opened_needs_no_bytes() {
    let m = Mounted::new();
    for name in ["written", "created", "read-and-written", "cut", "appended", "shell"] {
        fs::write(m.path(name), "the old bytes").unwrap();
    }
    let source = full_replica_of(&m);
    let away = source.with_file_name("away");
    let mut other = Lacking::unmounted(&m, source.clone());
    fs::rename(&source, &away).unwrap();
    other.mount();
    fs::write(other.path("written"), "new").unwrap();
    drop(rustix::fs::open(
        other.path("created"),
        rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::TRUNC,
        rustix::fs::Mode::empty(),
    ));
    let mut both =
        File::options().read(true).write(true).truncate(true).open(other.path("read-and-written")).unwrap();
    both.write_at(b"12", 1).unwrap();
    let mut read = Vec::new();
    both.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"\x0012");
    truncate(&other.path("cut"), 0).unwrap();
    let shell = format!("echo from the shell > {}", other.path("shell").display());
    assert!(Command::new("sh").arg("-c").arg(shell).status().unwrap().success());
    assert_eq!(fs::read_to_string(other.path("written")).unwrap(), "new");
    assert_eq!(fs::read(other.path("created")).unwrap(), b"");
    assert_eq!(fs::read(other.path("cut")).unwrap(), b"");
    assert_eq!(fs::read_to_string(other.path("shell")).unwrap(), "from the shell\n");
    assert_eq!(errno(File::options().append(true).open(other.path("appended"))), libc::EHOSTUNREACH);
    assert_eq!(other.status()["absent_files"], 1);
    drop(both);
    succeeds(mezzo().arg("unmount").arg(&other.path));
    succeeds(mezzo().arg("verify").arg(&other.path));
}

#[test]
fn who_waits_for_bytes_can_be_killed_and_holds_nobody_up() {
    let m = Mounted::new();
    for name in ["f", "g", "h"] {
        fs::write(m.path(name), "bytes").unwrap();
    }
    let other = Lacking::of(&m);
    fs::write(other.path("here"), "here").unwrap();
    rustix::process::kill_process(m.daemon(), Signal::STOP).unwrap();
    let paths = (other.path("f"), other.path("g"));
    let open = |path: PathBuf| {
        Process::start(ROOT, move |talk| {
            talk.go_on();
            assert_eq!(fs::read_to_string(path).unwrap(), "bytes");
        })
    };
    let waiting = [open(paths.0.clone()), open(paths.0.clone()), open(paths.1.clone())];
    waiting.iter().for_each(|waiting| waiting.talk().wait());
    eventually("all three wait", || other.status()["awaited"] == 2);
    // More than there are threads that serve wait; nobody else does.
    let more: Vec<_> = (0..12).map(|_| open(paths.1.clone())).collect();
    let start = Instant::now();
    for number in 0..50 {
        let path = other.path(&format!("new-{number}"));
        fs::write(&path, "new").unwrap();
        fs::rename(&path, other.path("new")).unwrap();
        assert_eq!(fs::read_to_string(other.path("here")).unwrap(), "here");
        assert_eq!(fs::metadata(other.path("f")).unwrap().len(), 5);
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let [first, second, third] = waiting;
    for (process, signal) in [(first, Signal::TERM), (second, Signal::KILL)] {
        let start = Instant::now();
        process.signal(signal);
        assert_eq!(process.end().0, Ended::Killed(signal.as_raw()));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
    eventually("f is not fetched any more", || other.status()["awaited"] == 1);
    rustix::process::kill_process(m.daemon(), Signal::CONT).unwrap();
    third.finish();
    more.into_iter().for_each(Process::finish);
    assert!(other.is_absent("f") && !other.is_absent("g"));
    assert_eq!(fs::read_to_string(other.path("f")).unwrap(), "bytes");
}

#[test]
fn a_source_that_does_not_answer_is_given_up() {
    let m = Mounted::new();
    fs::write(m.path("f"), "bytes").unwrap();
    let other = Lacking::of(&m);
    rustix::process::kill_process(m.daemon(), Signal::STOP).unwrap();
    let outcome = errno(fs::read(other.path("f")));
    rustix::process::kill_process(m.daemon(), Signal::CONT).unwrap();
    assert_eq!(outcome, libc::ETIMEDOUT);
    assert_eq!(fs::read_to_string(other.path("f")).unwrap(), "bytes");
}

#[test]
fn what_is_pinned_is_brought_and_stays() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/one"), "one").unwrap();
    fs::write(m.path("else"), "else").unwrap();
    let mut other = Lacking::of(&m);
    let pin = |word: &str, arguments: &[&str]| {
        mezzo().arg(word).args(&arguments[..1]).arg(&other.path).args(&arguments[1..]).output().unwrap()
    };
    assert!(mezzo().arg("pin").arg(&other.path).arg("d").status().unwrap().success());
    eventually("what is pinned is brought", || !other.is_absent("d/one"));
    assert!(other.is_absent("else"));
    let list = pin("pin", &["--list"]);
    assert_eq!(String::from_utf8_lossy(&list.stdout), "d\n");
    assert_eq!(other.status()["pins"], 1);
    // What comes below later is brought too, whatever the directory is called by then.
    fs::rename(other.path("d"), other.path("e")).unwrap();
    fs::rename(other.path("else"), other.path("e/else")).unwrap();
    eventually("what comes below is brought", || !other.is_absent("e/else"));
    let evicted = mezzo().arg("evict").arg(&other.path).arg("e").output().unwrap();
    assert_eq!(evicted.status.code(), Some(1));
    assert!(said(&evicted).contains("could not evict e/one: it is pinned with e"), "{evicted:?}");
    let not_itself = mezzo().arg("unpin").arg(&other.path).arg("e/one").output().unwrap();
    assert!(said(&not_itself).contains("it is pinned with e, above it"), "{not_itself:?}");
    let gone = mezzo().arg("pin").arg(&other.path).arg("no such").output().unwrap();
    assert!(said(&gone).contains("could not find no such"), "{gone:?}");
    // Pins outlive the daemon, and are changed without one.
    succeeds(mezzo().arg("unmount").arg(&other.path));
    other.daemon = None;
    let list = succeeds(mezzo().arg("pin").arg("--list").arg("--json").arg(&other.path));
    assert_eq!(json(&list)["path"], "e");
    succeeds(mezzo().arg("unpin").arg(&other.path).arg("e"));
    assert_eq!(succeeds(mezzo().arg("pin").arg("--list").arg(&other.path)).stdout, b"");
}

#[test]
fn what_others_have_is_evicted_and_comes_again() {
    let m = Mounted::new();
    for name in ["f", "open", "again"] {
        fs::write(m.path(name), vec![b'x'; 1 << 20]).unwrap();
    }
    let other = Lacking::of(&m);
    let evict = |arguments: &[&str]| mezzo().arg("evict").arg(&other.path).args(arguments).output().unwrap();
    for name in ["f", "open", "again"] {
        fs::read(other.path(name)).unwrap();
    }
    fs::write(other.path("mine"), "mine").unwrap();
    let before = fs::metadata(other.path("f")).unwrap();
    let held = File::open(other.path("open")).unwrap();
    let output = evict(&["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = json(&output);
    assert_eq!(
        (&told["files"], &told["bytes"], &told["kept"]),
        (&2.into(), &(2 << 20).into(), &2.into()),
        "{told}"
    );
    let refused: Vec<_> =
        told["refused"].as_array().unwrap().iter().map(|r| (&r["path"], &r["why"])).collect();
    assert!(refused.contains(&(&"open".into(), &"somebody has it open".into())), "{told}");
    assert!(
        refused
            .iter()
            .any(|(path, why)| *path == "mine" && why.as_str().unwrap().contains("not acknowledged"))
    );
    eventually("the kernel is told", || fs::metadata(other.path("f")).unwrap().blocks() <= 8);
    let after = fs::metadata(other.path("f")).unwrap();
    assert_eq!(
        (before.len(), before.mtime_nsec(), before.ctime_nsec()),
        (after.len(), after.mtime_nsec(), after.ctime_nsec())
    );
    assert_eq!(other.status()["absent_files"], 2);
    assert!(fs::read(other.path("again")).unwrap() == vec![b'x'; 1 << 20]);
    drop(held);
    // What was written on both sides is evicted when the other side has it.
    succeeds(mezzo().arg("reintegrate").arg(&other.path).arg("--onto").arg(m.path("")));
    eventually("it is closed", || evict(&["mine", "open"]).status.success());
    assert_eq!(fs::read_to_string(other.path("mine")).unwrap(), "mine");
    succeeds(mezzo().arg("unmount").arg(&other.path));
    let refused = mezzo().arg("evict").arg(&other.path).arg("again").output().unwrap();
    assert!(said(&refused).contains("no other replica that is known to have its bytes"), "{refused:?}");
    succeeds(mezzo().arg("verify").arg(&other.path));
}

#[test]
fn a_limit_keeps_what_was_used_last() {
    let m = Mounted::new();
    for number in 0..8 {
        fs::write(m.path(&format!("f{number}")), vec![b'x'; 1 << 20]).unwrap();
    }
    let mut other = Lacking::unmounted(&m, m.path(""));
    other.set_cache("limit = \"4MiB\"");
    other.mount();
    for number in 0..8 {
        assert_eq!(fs::read(other.path(&format!("f{number}"))).unwrap().len(), 1 << 20);
    }
    eventually("what is too much goes", || other.status()["cache_bytes"].as_u64().unwrap() <= 4 << 20);
    let status = other.status();
    assert_eq!(status["cache_limit"], 4 << 20, "{status}");
    assert!(!other.is_absent("f7") && other.is_absent("f0"), "{status}");
}

#[test]
fn a_full_host_is_given_room_by_evicting() {
    let m = Mounted::new();
    for number in 0..10 {
        fs::write(m.path(&format!("f{number}")), vec![number; 16 << 20]).unwrap();
    }
    let host = SmallHost::new(&["mkfs.ext4", "-q", "-F", "-m", "0"], 128, "defaults");
    let path = host.path().join("lacking");
    succeeds(mezzo().arg("init").arg(&path).arg("--replica-of").arg(m.path("")));
    let mut other = Lacking::unmounted_at(&m, m.path(""), path);
    other.set_cache("limit = \"1GiB\"");
    other.mount();
    for number in 0..10 {
        let bytes = fs::read(other.path(&format!("f{number}"))).unwrap();
        assert!(bytes == vec![number; 16 << 20], "{number}");
    }
    assert!(other.is_absent("f0"), "{}", other.status());
    // What is only here stays, however much of the rest goes for it.
    for number in 0..60 {
        // The kernel writes past the daemon, which gives room up ten times a second.
        let path = other.path(&format!("own-{number}"));
        eventually("there is room", || fs::write(&path, vec![0xee; 1 << 20]).is_ok());
    }
    eventually("others go", || other.status()["absent_files"].as_u64() > Some(6));
    for number in 0..60 {
        assert!(fs::read(other.host(&format!("own-{number}"))).unwrap() == vec![0xee; 1 << 20]);
    }
    succeeds(mezzo().arg("unmount").arg(&other.path));
    other.daemon = None;
    other.root = File::open("/").unwrap();
    drop(other);
    drop(host);
}

#[test]
fn a_full_replica_brings_everything_by_itself() {
    let m = Mounted::new();
    for number in 0..30 {
        fs::write(m.path(&format!("f{number}")), format!("bytes of {number}")).unwrap();
    }
    let mut other = Lacking::unmounted(&m, m.path(""));
    other.set_cache("full = true");
    other.mount();
    eventually("all is brought", || other.status()["absent_files"] == 0);
    assert_eq!(fs::read_to_string(other.host("f7")).unwrap(), "bytes of 7");
}

#[test]
fn what_would_be_missing_offline_is_told() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/one"), "one").unwrap();
    fs::write(m.path("two"), "two!").unwrap();
    let mut other = Lacking::of(&m);
    let ask = |path: &Path| succeeds(mezzo().arg("status").arg("--offline-ready").arg(path));
    let ask_json =
        |path: &Path| json(&succeeds(mezzo().args(["status", "--offline-ready", "--json"]).arg(path)));
    let told = ask_json(&other.path);
    assert_eq!(
        (&told["ready"], &told["missing_files"], &told["missing_bytes"]),
        (&false.into(), &2.into(), &7.into()),
        "{told}"
    );
    assert_eq!(told["missing"][0]["path"], "d/one");
    assert_eq!(ask_json(&other.path("d"))["missing_files"], 1);
    let text = String::from_utf8(ask(&other.path).stdout).unwrap();
    assert!(text.contains("two\n") && text.ends_with("2 files with 7 bytes would be missing\n"), "{text}");
    fs::read(other.path("two")).unwrap();
    assert_eq!(ask_json(&other.path("two"))["ready"], true);
    // Without the daemon too.
    succeeds(mezzo().arg("unmount").arg(&other.path));
    other.daemon = None;
    assert_eq!(ask_json(&other.path)["missing_files"], 1);
}

#[test]
fn a_kill_amid_fills_leaves_files_absent_or_whole() {
    let seed = std::env::var("MEZZO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
    });
    println!("MEZZO_SEED={seed}");
    let mut random = seed | 1;
    let mut below = |bound: u64| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    };
    let m = Mounted::new();
    let bytes = |number: u8| vec![number + 1; 1 << (10 + number)];
    for number in 0..14 {
        fs::write(m.path(&format!("f{number}")), bytes(number)).unwrap();
    }
    let mut other = Lacking::of(&m);
    for round in 0..6 {
        let kill_after = Duration::from_micros(below(60_000));
        let first = below(14) as u8;
        std::thread::scope(|scope| {
            for number in 0..14 {
                let path = other.path(&format!("f{}", (first + number) % 14));
                // It may be killed amid this.
                scope.spawn(move || drop(fs::read(path)));
            }
            std::thread::sleep(kill_after);
            other.kill_daemon();
        });
        for number in 0..14 {
            let name = format!("f{number}");
            assert!(
                other.is_absent(&name) || fs::read(other.host(&name)).unwrap() == bytes(number),
                "{round} {name}"
            );
        }
        other.mount();
        for number in 0..14 {
            let name = format!("f{number}");
            let is_absent = other.is_absent(&name);
            assert!(fs::read(other.path(&name)).unwrap() == bytes(number), "{round} {name}");
            assert_eq!(
                fs::metadata(other.path(&name)).unwrap().mtime_nsec(),
                fs::metadata(m.path(&name)).unwrap().mtime_nsec()
            );
            assert!(is_absent || !other.is_absent(&name));
        }
        let evicted = mezzo().arg("evict").arg(&other.path).output().unwrap();
        assert!(evicted.status.success(), "{evicted:?}");
    }
    assert_eq!(other.status()["last_recno"], m.status()["last_recno"], "nothing was taken for a change");
}
