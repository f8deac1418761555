//! The commands, one file each.

mod blame;
mod clients;
mod clone;
mod diff;
mod evict;
mod history;
mod init;
mod invite;
pub mod log;
mod mount;
mod online;
pub mod permit;
mod pin;
mod redo;
mod reintegrate;
pub mod replay;
mod restore;
mod revert;
mod serve;
mod show;
mod status;
mod sync;
mod undo;
mod unmount;
mod verify;

use clap::Subcommand;

use crate::Ending;

/// A command with its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a directory a fileset; files already there are taken in
    Init(init::Arguments),
    /// Mount a fileset: from now on every change is recorded
    Mount(mount::Arguments),
    /// Unmount a fileset
    Unmount(unmount::Arguments),
    /// Show what happened, newest first
    Log(log::Arguments),
    /// Show one record in full
    Show(show::Arguments),
    /// Show all that happened to one file or directory
    History(history::Arguments),
    /// Show which record brought each line of a file
    Blame(blame::Arguments),
    /// Show what is different between two records
    Diff(diff::Arguments),
    /// Take back what was done
    Undo(undo::Arguments),
    /// Do again what was taken back
    Redo(redo::Arguments),
    /// Take back some records, and leave what came after them
    Revert(revert::Arguments),
    /// Make something as it was, beside what is
    Restore(restore::Arguments),
    /// Take in what was recorded on another replica
    Reintegrate(reintegrate::Arguments),
    /// Build the tree that a log describes
    Replay(replay::Arguments),
    /// Check that tree and log agree
    Verify(verify::Arguments),
    /// Offer filesets to other machines
    Serve(serve::Arguments),
    /// Print a link by which somebody may clone a fileset that is offered
    Invite(invite::Arguments),
    /// Show who may use a fileset that is offered, or take that from somebody
    Clients(clients::Arguments),
    /// Make a replica of a fileset that is offered, and mount it
    Clone(clone::Arguments),
    /// Exchange everything with the server, and wait for it
    Sync(sync::Arguments),
    /// Connect to the server, now and whenever it can be reached
    Online(online::Arguments),
    /// End the connection to the server, and make none until told to
    Offline(online::Arguments),
    /// Show who may write, where one at a time may; have the permit here, give it back, or take it away
    Permit(permit::Arguments),
    /// Have files here whether anybody opens them or not
    Pin(pin::Arguments),
    /// Have them here no more than others
    Unpin(pin::UnpinArguments),
    /// Give up bytes that others have
    Evict(evict::Arguments),
    /// Show how a fileset is
    Status(status::Arguments),
}

/// Runs a command.
pub fn run(command: Command) -> Ending {
    match command {
        Command::Init(arguments) => init::run(arguments),
        Command::Mount(arguments) => mount::run(arguments),
        Command::Unmount(arguments) => unmount::run(arguments),
        Command::Log(arguments) => log::run(arguments),
        Command::Show(arguments) => show::run(arguments),
        Command::History(arguments) => history::run(arguments),
        Command::Blame(arguments) => blame::run(arguments),
        Command::Diff(arguments) => diff::run(arguments),
        Command::Undo(arguments) => undo::run(arguments),
        Command::Redo(arguments) => redo::run(arguments),
        Command::Revert(arguments) => revert::run(arguments),
        Command::Restore(arguments) => restore::run(arguments),
        Command::Reintegrate(arguments) => reintegrate::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Invite(arguments) => invite::run(arguments),
        Command::Clients(arguments) => clients::run(arguments),
        Command::Clone(arguments) => clone::run(arguments),
        Command::Sync(arguments) => sync::run(arguments),
        Command::Online(arguments) => online::run(arguments, true),
        Command::Permit(arguments) => permit::run(arguments),
        Command::Offline(arguments) => online::run(arguments, false),
        Command::Pin(arguments) => pin::run(arguments),
        Command::Unpin(arguments) => pin::run_unpin(arguments),
        Command::Evict(arguments) => evict::run(arguments),
        Command::Status(arguments) => status::run(arguments),
    }
}
