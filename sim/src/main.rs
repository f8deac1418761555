//! Replicas on a simulated host, which crashes between any two steps.
//!
//! A random history of operations is done by replicas in a process of their own, on a host that is a file system in memory, served
//! through FUSE: so they make real system calls. Every change that reaches the host, and every fsync, is a step. What the host has
//! at each is kept; then the host crashes at each of them: the process is killed, or the power is lost with what was not durable
//! lost, or torn. The replicas are opened on what is left, and looked at.

mod campaign;
mod crash;
mod history;
mod host;
mod mapped;
mod page;
mod random;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use page::Page;
use worker::Task;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, host, page] = &arguments[..]
        && word == "worker"
    {
        return work(host.into(), page);
    }
    match campaign::run(campaign::Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Random numbers of the system for whoever asks for them with this function: the standard library, whose hash maps have an order by
/// them. In the replicas' process they are always the same, so that a run is.
///
/// # Safety
///
/// As getrandom(2): `length` bytes at `bytes` are the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    bytes: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if worker::is_here() {
        // SAFETY: the caller says so.
        unsafe { std::ptr::write_bytes(bytes.cast::<u8>(), 7, length) };
        return length as libc::ssize_t;
    }
    // SAFETY: the kernel takes what the caller gives.
    unsafe { libc::syscall(libc::SYS_getrandom, bytes, length, flags) as libc::ssize_t }
}

/// The variable that names a directory for what there is of the host when something is not as it should be.
const KEEP: &str = "MEZZO_SIM_KEEP";

/// The replicas' process.
fn work(host: PathBuf, page: &str) -> ExitCode {
    let page = page.parse().map_err(std::io::Error::other).and_then(Page::inherited);
    worker::settle(page.expect("who starts it gives it the page"));
    let task = serde_json::from_reader(std::io::stdin()).expect("who starts it gives it a task");
    let outcome = match task {
        Task::Perform { replicas, history } => {
            let history: Result<Vec<_>, _> = history.iter().map(|operation| operation.parse()).collect();
            worker::perform(&host, replicas, &history.expect("they were printed"))
        }
        Task::Check { facts, at, loss } => {
            worker::check(&host, &facts, at, loss).map(|()| worker::Facts::default())
        }
    };
    if let (Err(_), Some(keep)) = (&outcome, std::env::var_os(KEEP)) {
        // For people: where it can't be copied, there is nothing to look at.
        let _ = std::process::Command::new("cp").arg("-a").arg(host.join(".")).arg(keep).status();
    }
    println!("{}", serde_json::to_string(&outcome).expect("it is plain data"));
    ExitCode::SUCCESS
}
