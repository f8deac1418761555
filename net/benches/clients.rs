//! Many clients of one server over real connections: how soon all of them have a record, and what the server holds for each.
//!
//! `cargo bench -p mezzo-net --bench clients -- [CLIENTS]`. The clients are in a process of their own, and keep no trees: they greet,
//! take records and acknowledge them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mezzo_core::IdMapping;
use mezzo_core::session::message::{Ack, Body, Hello, Message, Position};
use mezzo_net::frame::{FrameLimits, FrameReader, FrameWriter};
use mezzo_net::identity::{Link, PendingClient, Rights, ServerIdentity, SystemClock};
use mezzo_net::server::{Policy, Served, Server};
use mezzo_replica::{Fileset, Replica};
use prost::Message as _;
use rustix::time::{ClockId, clock_gettime};

const SESSION: u8 = 0x10;

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match words.first().map(String::as_str) {
        Some("--clients") => runtime.block_on(clients()),
        word => serve(&runtime, word.and_then(|word| word.parse().ok()).unwrap_or(500)),
    }
}

/// Nanoseconds of a clock that all processes share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn memory() -> Result<u64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

fn serve(runtime: &tokio::runtime::Runtime, count: usize) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let tree = directory.path().join("tree");
    std::fs::create_dir(&tree)?;
    let replica = Arc::new(Replica::create(Fileset::create(&tree)?)?);
    replica.take_in(&mut |_| true)?;
    let identity = ServerIdentity::open(&directory.path().join("state"), Arc::new(SystemClock))?;
    let server = runtime.block_on(async {
        let served = Served::new(replica.clone(), Arc::new(()), Policy::default())?;
        Ok::<_, Failed>(Server::start("127.0.0.1:0".parse()?, identity, vec![served]).await?)
    })?;
    let mut clients = Command::new(std::env::current_exe()?)
        .arg("--clients")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let before = memory()?;
    let mut links = clients.stdin.take().ok_or("no pipe")?;
    for _ in 0..count {
        let fileset = replica.fileset().config.id;
        let valid = Duration::from_secs(3600);
        let address = vec![server.address().to_string().parse()?];
        let link = server.identity().mint(Rights::Read, valid, IdMapping::Same, fileset, address)?;
        writeln!(links, "{link}")?;
    }
    drop(links);
    let mut told = BufReader::new(clients.stdout.take().ok_or("no pipe")?).lines();
    println!("{}", told.next().ok_or("the clients ended")??);
    let after = memory()?;
    let mut times = Vec::new();
    for round in 0..10 {
        std::fs::write(tree.join(format!("file{round}")), "a kibibyte or so\n".repeat(60))?;
        let begun = now();
        replica.take_in(&mut |_| true)?;
        let all: u64 = told.next().ok_or("the clients ended")??.parse()?;
        times.push((all - begun) as f64 / 1e6);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "a record is at all {count} clients after {:.1} ms (median), {:.1} ms at most",
        times[5], times[9]
    );
    println!("the server holds {:.1} KiB for each client", (after - before) as f64 / count as f64);
    clients.kill()?;
    clients.wait()?;
    Ok(())
}

/// Comes with every link that is read.
async fn clients() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let links: Vec<Link> =
        std::io::stdin().lines().map(|line| Ok(line?.parse()?)).collect::<Result<_, Failed>>()?;
    let count = links.len();
    let (open, had) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let last = Arc::new(AtomicU64::new(0));
    let limit = Arc::new(tokio::sync::Semaphore::new(16));
    for (number, link) in links.into_iter().enumerate() {
        let path = directory.path().join(number.to_string());
        let (open, had, last, limit) = (open.clone(), had.clone(), last.clone(), limit.clone());
        tokio::spawn(async move {
            let turn = limit.acquire_owned().await;
            if let Err(error) =
                client(&path, link, number as u64 + 1, turn, (&open, &had, &last), count).await
            {
                eprintln!("client {number}: {error}");
            }
        });
    }
    while open.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{count} clients are connected");
    let mut round = 1;
    loop {
        if had.load(Ordering::Acquire) >= round * count {
            println!("{}", last.load(Ordering::Relaxed));
            round += 1;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

async fn client(
    path: &Path,
    link: Link,
    replica: u64,
    turn: impl Send,
    (open, had, last): (&AtomicUsize, &AtomicUsize, &AtomicU64),
    _count: usize,
) -> Result<(), Failed> {
    let identity = PendingClient::open(path, Arc::new(SystemClock))?.enrol(&link, "bench").await?;
    let (read, write) = tokio::io::split(identity.connect().await?);
    let mut reader = FrameReader::new(read, FrameLimits::default());
    let mut writer = FrameWriter::new(write, FrameLimits::default());
    let hello = Hello {
        oldest_version: 1,
        version: 1,
        fileset: link.fileset.0.to_vec(),
        replica,
        ids: vec![Position { replica, recno: 0 }],
        ..Hello::default()
    };
    say(&mut writer, Body::Hello(hello)).await?;
    let mut first = None;
    drop(turn);
    while let Some(bytes) = reader.next().await? {
        let body = Message::decode(&bytes[1..])?.body;
        match body {
            Some(Body::Welcome(welcome)) => {
                first = Some(welcome.last);
                open.fetch_add(1, Ordering::Relaxed);
            }
            Some(Body::Records(records)) => {
                if first.is_some_and(|first| records.upto > first) && !records.data.is_empty() {
                    last.fetch_max(now(), Ordering::Relaxed);
                    had.fetch_add(1, Ordering::Release);
                }
                say(&mut writer, Body::Ack(Ack { upto: records.upto })).await?;
            }
            Some(Body::Ping(ping)) => say(&mut writer, Body::Pong(ping)).await?,
            Some(Body::Goodbye(goodbye)) => return Err(goodbye.message.into()),
            _ => {}
        }
    }
    Ok(())
}

async fn say<W: tokio::io::AsyncWrite + Unpin>(to: &mut FrameWriter<W>, body: Body) -> Result<(), Failed> {
    to.write(&[&[SESSION], &Message::from(body).encode_to_vec()]).await?;
    Ok(to.flush().await?)
}
