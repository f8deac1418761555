//! Many at once.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::{ALICE, BOB, Mounted, Process, ROOT, errno};

/// What others may have been faster at, or do not allow.
fn may_fail(done: std::io::Result<()>) {
    let expected = [
        libc::ENOENT,
        libc::EEXIST,
        libc::ENOTEMPTY,
        libc::EISDIR,
        libc::ENOTDIR,
        libc::EACCES,
        libc::EPERM,
        // A directory cannot go below itself.
        libc::EINVAL,
        // What was replaced between lookup and use: see renames.rs.
        libc::ESTALE,
    ];
    let errno = errno(done);
    assert!(errno == 0 || expected.contains(&errno), "{}", std::io::Error::from_raw_os_error(errno));
}

/// A number that looks random, from the one before.
fn next(seed: &mut u32) -> u32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *seed >> 8
}

#[test]
fn three_hundred_work_in_the_same_directories() {
    let m = Mounted::new();
    fs::set_permissions(m.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for name in ["a", "b", "a/c"] {
        fs::create_dir(m.path(name)).unwrap();
        fs::set_permissions(m.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..300u32 {
            let (m, done) = (&m, &done);
            scope.spawn(move || {
                [ROOT, ALICE, BOB][worker as usize % 3].assume();
                let mut seed = worker + 1;
                for _ in 0..20 {
                    let name = |seed: &mut u32| {
                        let directory = ["", "a", "b", "a/c"][next(seed) as usize % 4];
                        m.path(directory).join(format!("n{}", next(seed) % 20))
                    };
                    let (one, other) = (name(&mut seed), name(&mut seed));
                    match next(&mut seed) % 8 {
                        0 | 1 => may_fail(fs::write(&one, format!("{worker}"))),
                        2 => may_fail(fs::create_dir(&one)),
                        3 => may_fail(fs::rename(&one, &other)),
                        4 => may_fail(fs::remove_file(&one)),
                        5 => may_fail(fs::hard_link(&one, &other)),
                        6 => may_fail(exchange(&one, &other)),
                        _ => may_fail(fs::remove_dir(&one)),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(done.load(Ordering::Relaxed), 6000);
}

fn exchange(one: &Path, other: &Path) -> std::io::Result<()> {
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[test]
fn three_hundred_work_in_directories_of_their_own() {
    let m = Mounted::new();
    std::thread::scope(|scope| {
        for worker in 0..300 {
            let directory = m.path(&format!("{worker}"));
            scope.spawn(move || {
                fs::create_dir(&directory).unwrap();
                for round in 0..10 {
                    let (file, renamed) = (directory.join("f"), directory.join(format!("r{}", round % 3)));
                    fs::write(&file, format!("{round}")).unwrap();
                    fs::rename(&file, &renamed).unwrap();
                    assert_eq!(fs::read_to_string(&renamed).unwrap(), format!("{round}"));
                }
                fs::remove_file(directory.join("r0")).unwrap();
                assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
            });
        }
    });
    assert_eq!(fs::read_dir(m.path("")).unwrap().count(), 300);
}

#[test]
fn many_write_to_one_file() {
    let m = Mounted::new();
    drop(File::create(m.path("f")).unwrap());
    std::thread::scope(|scope| {
        for worker in 0..100u64 {
            let m = &m;
            scope.spawn(move || {
                for round in 0..5 {
                    let file = File::options().write(true).open(m.path("f")).unwrap();
                    file.write_all_at(&[worker as u8; 100], (worker * 5 + round) * 100).unwrap();
                }
            });
        }
    });
    let bytes = fs::read(m.path("f")).unwrap();
    assert_eq!(bytes.len(), 50_000);
    assert!(bytes.chunks(500).enumerate().all(|(worker, chunk)| chunk == [worker as u8; 500]));
}

#[test]
fn a_slow_user_holds_nobody_up() {
    let m = Mounted::new();
    let fifo = m.path("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    // Many that wait for something on the mount, more than the daemon has threads.
    let waiting: Vec<_> =
        (0..20).map(|_| Process::start(ROOT, |_| drop(File::open(m.path("fifo")).unwrap()))).collect();
    for number in 0..50 {
        fs::write(m.path(&format!("{number}")), "1").unwrap();
    }
    let _writer = File::options().read(true).write(true).open(&fifo).unwrap();
    waiting.into_iter().for_each(|process| process.finish());
}
