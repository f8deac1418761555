//! `mezzo status`: how a fileset is.

mod offline;

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use mezzo_net::upstream::LinkStatus;
use mezzo_replica::fileset::Config;
use mezzo_replica::log::Reader;
use serde::Serialize;

use crate::control::{Answer, Request, Status};
use crate::find::Found;
use crate::render::json;
use crate::{Ending, Failure, find};

/// Arguments of `mezzo status`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The fileset, or something in it
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Show which files at DIRECTORY and below would be missing without a connection
    #[arg(long)]
    offline_ready: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What is shown, and the names of its fields as JSON.
#[derive(Debug, Serialize)]
struct Shown {
    path: String,
    id: String,
    name: String,
    replica: String,
    /// Those that it was before it was found to be a copy.
    earlier_replicas: Vec<Earlier>,
    mounted: bool,
    /// Whether clients may come: see `mezzo serve`.
    offered: bool,
    first_recno: u64,
    /// As the log has it; the daemon's answer has it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_recno: Option<u64>,
    #[serde(flatten)]
    daemon: Option<Status>,
}

/// A replica whose log this was, and the last number that it gave.
#[derive(Debug, Serialize)]
struct Earlier {
    replica: String,
    last_recno: u64,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    if arguments.offline_ready {
        return offline::run(&arguments.directory, arguments.json);
    }
    let shown = gather(find::fileset(&arguments.directory)?)?;
    if arguments.json {
        println!("{}", json::one_line(&shown)?);
    } else {
        print(&shown);
    }
    Ok(())
}

fn gather(mut found: Found) -> Result<Shown, Failure> {
    let config = Config::read(found.own.as_fd(), &found.path)?;
    let reader = Reader::open(&found.own_path("kml"))?;
    let mounted = found.daemon.is_some();
    let mut daemon = match found.daemon.take() {
        Some(daemon) => Some(daemon),
        // One that offers it has it open, too.
        None => find::daemon(&found.path)?,
    };
    let daemon = match &mut daemon {
        Some(client) => match client.ask(&Request::Status)?.0 {
            Answer::Status(status) => Some(status),
            other => return Err(Failure::Failed(format!("the daemon answered {other:?}"))),
        },
        None => None,
    };
    let offered = daemon.as_ref().is_some_and(|daemon| daemon.clients.is_some());
    Ok(Shown {
        path: mezzo_core::name::escape(std::os::unix::ffi::OsStrExt::as_bytes(found.path.as_os_str())),
        id: config.id.to_string(),
        name: config.name,
        replica: config.replica.to_string(),
        earlier_replicas: earlier(&reader)?,
        mounted,
        offered,
        first_recno: reader.first()?.0,
        last_recno: if daemon.is_none() { Some(reader.last()?.0) } else { None },
        daemon,
    })
}

fn earlier(reader: &Reader) -> Result<Vec<Earlier>, Failure> {
    let replicas = reader.replicas()?;
    let ended = replicas.iter().skip(1).map(|(_, first)| first.0.saturating_sub(1));
    let earlier = replicas.iter().zip(ended);
    Ok(earlier
        .map(|((replica, _), last_recno)| Earlier { replica: replica.to_string(), last_recno })
        .collect())
}

fn line(name: &str, value: &dyn std::fmt::Display) {
    println!("{:12} {value}", format!("{name}:"));
}

/// How the connection to the server is.
fn print_link(link: &LinkStatus) {
    let state = match link.state.as_str() {
        "connected" => format!("connected to {}", link.server),
        "offline" => format!("offline, as somebody wanted it; the server is {}", link.server),
        state => {
            let reason = link.reason.as_deref().unwrap_or("not reached yet");
            format!("{state}, {}: {reason}", link.server)
        }
    };
    line("server", &state);
    let (records, bytes) = (link.pending_records, link.pending_bytes);
    line(
        "exchanged",
        &format_args!("to there up to record {}, from there up to {}", link.acknowledged, link.received),
    );
    if let Some(conflict) = &link.conflict {
        let at = if conflict.at == "here" { "the server's" } else { "this replica's" };
        line("CONFLICT", &format_args!("{at} record {}: {}", conflict.recno, conflict.message));
    }
    if let Some(waiting) = &link.waiting {
        line("waiting", waiting);
    }
    let lid = match (records, link.settled) {
        (0, true) => "everything is exchanged: it is safe to close the lid".to_owned(),
        (0, false) => "nothing waits to go to the server".to_owned(),
        _ => format!("{records} records of some {bytes} bytes wait to go to the server"),
    };
    line("pending", &lid);
}

/// Where files' bytes are.
fn print_data(daemon: &Status) {
    if daemon.absent_files > 0 {
        line("absent", &format_args!("{} files of {} bytes", daemon.absent_files, daemon.absent_bytes));
    }
    if let Some(upstream) = &daemon.upstream {
        line("fetched from", upstream);
    }
    if daemon.fetching > 0 {
        line("fetching", &format_args!("{} files; {} are waited for", daemon.fetching, daemon.awaited));
    }
    if daemon.pins > 0 {
        line("pinned", &daemon.pins);
    }
    match daemon.cache_limit {
        Some(limit) => line("cache", &format_args!("{} of {limit} bytes", daemon.cache_bytes)),
        None if daemon.absent_files > 0 => line("cache", &format_args!("{} bytes", daemon.cache_bytes)),
        None => {}
    }
}

fn print(shown: &Shown) {
    line("fileset", &format_args!("{} ({})", shown.name, shown.id));
    line("directory", &shown.path);
    line("replica", &shown.replica);
    for Earlier { replica, last_recno } in &shown.earlier_replicas {
        line("was", &format_args!("a copy of {replica} as it was at record {last_recno}"));
    }
    let last = shown.last_recno.or(shown.daemon.as_ref().map(|daemon| daemon.last_recno)).unwrap_or_default();
    line("records", &format_args!("{} to {last}", shown.first_recno));
    let Some(daemon) = &shown.daemon else {
        line("mounted", &"no: changes are not recorded until it is, and then taken in");
        return;
    };
    let open = format!("yes, by process {}", daemon.pid);
    line("mounted", if shown.mounted { &open } else { &"no" });
    if let Some(clients) = daemon.clients {
        line("offered", &format_args!("{open}; {clients} clients are connected"));
    }
    line("objects", &daemon.objects);
    line("log", &format_args!("{} bytes", daemon.log_bytes));
    line("data", &if daemon.passthrough { "passes through the kernel" } else { "goes through the daemon" });
    line("requests", &if daemon.io_uring { "come over io_uring" } else { "come over /dev/fuse" });
    let (bytes, files, ranges) = (daemon.attic_bytes, daemon.attic_files, daemon.attic_by_ranges);
    line("attic", &format_args!("{bytes} bytes in {files} files, {ranges} of them kept by ranges"));
    print_data(daemon);
    daemon.link.iter().for_each(print_link);
    line("comparison", &daemon.scan);
    if daemon.watch {
        line("watch", &format_args!("{} records of what was changed behind the mount", daemon.watch_records));
    }
    if daemon.lost_files > 0 {
        let (files, bytes) = (daemon.lost_files, daemon.lost_bytes);
        line("LOST", &format_args!("{files} files of {bytes} bytes lack data that was lost with the power"));
    }
    daemon.behind_processes.iter().for_each(|process| line("past it", &process.note()));
    daemon.behind_mounts.iter().for_each(|mount| line("past it", &mount.note()));
    daemon.submounts.iter().for_each(|submount| line("mounted in", &submount.note()));
    daemon.without.iter().for_each(|without| line("without", without));
    if let Some(trouble) = &daemon.trouble {
        line("TROUBLE", &format_args!("nothing can be changed just now: {trouble}"));
    }
    if let Some(reason) = &daemon.broken {
        line("BROKEN", &format_args!("nothing can be changed, since the log could not be written: {reason}"));
    }
}
