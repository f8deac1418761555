//! Programs that stand on the mount.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};

use crate::common::{ALICE, BOB, Ended, Mounted, Process, ROOT, apart, errno, succeeds};

/// A program of the system's on the mount, put there by a process of its own: a descriptor of ours that can write may be
/// copied by a fork anywhere, and keeps it from running.
fn program(m: &Mounted, name: &str) -> std::path::PathBuf {
    let path = m.path(name);
    succeeds(Command::new("cp").arg(Path::new("/bin").join(name)).arg(&path));
    path
}

/// Becomes the program, or returns the error number.
fn exec(path: &Path) -> i32 {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let arguments = [path.as_ptr(), std::ptr::null()];
    // SAFETY: the path ends with a NUL, and the list with a null pointer.
    unsafe { libc::execv(path.as_ptr(), arguments.as_ptr()) };
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

#[test]
fn a_program_runs_and_makes_no_record() {
    let m = Mounted::new();
    let path = program(&m, "true");
    let last = m.last();
    assert!(Command::new(&path).status().unwrap().success());
    assert!(ALICE.command(&path).status().unwrap().success());
    assert_eq!(m.last(), last);
}

#[test]
fn a_script_runs() {
    let m = Mounted::new();
    apart(ROOT, || {
        fs::write(m.path("script"), "#!/bin/sh\necho \"ran $0\"\n").unwrap();
        fs::set_permissions(m.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    });
    let output = succeeds(&mut ALICE.command(m.path("script")));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("ran {}\n", m.path("script").display()));
}

#[test]
fn what_may_not_be_run_does_not_run() {
    let m = Mounted::new();
    let path = program(&m, "true");
    for (mode, user, allowed) in [(0o644, ROOT, false), (0o700, ALICE, false), (0o711, ALICE, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let process = Process::start(user, |_| assert_eq!(exec(&path), libc::EACCES));
        let (ended, said) = process.end();
        assert_eq!(ended, Ended::Exited(0), "{said}");
        assert_eq!(user.command(&path).status().is_ok(), allowed);
    }
}

#[test]
fn a_running_program_cannot_be_written() {
    let m = Mounted::new();
    let path = program(&m, "sleep");
    let mut running = Command::new(&path).arg("1000").spawn().unwrap();
    let refused = [
        errno(File::options().write(true).open(&path)),
        errno(File::options().append(true).open(&path)),
        errno(File::options().write(true).truncate(true).open(&path)),
        errno(rustix::fs::open(&path, OFlags::RDWR, Mode::empty())),
        errno(rustix::fs::open(&path, OFlags::RDONLY | OFlags::TRUNC, Mode::empty())),
        errno(rustix::fs::open(&path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, Mode::empty())),
    ];
    let whole = fs::metadata(&path).unwrap().len() == fs::metadata("/bin/sleep").unwrap().len();
    let replaced =
        succeeds(Command::new("cp").arg("--remove-destination").arg("/bin/true").arg(&path)).status;
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(refused, [libc::ETXTBSY; 6]);
    assert!(whole, "a refused open takes nothing away");
    assert!(replaced.success(), "another file can take its name");
}

#[test]
fn a_file_that_is_open_for_writing_cannot_be_run() {
    let m = Mounted::new();
    let path = program(&m, "true");
    let writer = Process::start(ROOT, |talk| {
        let _file = File::options().write(true).open(&path).unwrap();
        talk.go_on();
        talk.wait();
    });
    writer.talk().wait();
    apart(ROOT, || assert_eq!(exec(&path), libc::ETXTBSY));
    writer.talk().go_on();
    writer.finish();
    crate::common::eventually("it can be run again", || Command::new(&path).status().is_ok());
}

#[test]
fn a_set_user_id_program_runs_as_its_owner() {
    let m = Mounted::new();
    let path = m.path("id");
    succeeds(Command::new("cp").arg("/usr/bin/id").arg(&path));
    std::os::unix::fs::chown(&path, Some(ALICE.uid), Some(ALICE.gid)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let output = succeeds(BOB.command(&path).args(["-u"]));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), ALICE.uid.to_string());
    let output = succeeds(BOB.command(&path).args(["-g"]));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), ALICE.gid.to_string());
}

#[test]
fn a_program_that_starts_another_while_it_writes_is_not_held_up() {
    let m = Mounted::new();
    for round in 0..20 {
        apart(ROOT, || {
            let file = File::create(m.path("f")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, format!("{round}").as_bytes(), 0).unwrap();
            // The kernel closes the file on the way into the other program.
            exec(Path::new("/bin/true"));
        });
    }
}
