//! Another log's records, as a command names them and the daemon hears it, and what came of taking them in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mezzo_core::codec::Frame;
use mezzo_core::name::escape;
use mezzo_core::reintegrate::Class;
use mezzo_core::{Change, ObjectId, Recno, Record, ReplicaId};
use mezzo_replica::receive::{Beside, How, OnData, Outgoing, Stop, Taken, Why};
use mezzo_replica::undo::Audience;
use mezzo_replica::{FilesetId, Replica};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::commands::replay::open_log;

/// Records that are taken between two moments at which everything is durable.
const BATCH: usize = 2048;

/// Warnings that are told of; of the rest only how many.
const TOLD: usize = 100;

/// Which records are to be taken in, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The other log: a fileset, its kml directory, or a segment.
    pub log: PathBuf,
    /// The first record; without it, the one after the last that was received.
    pub from: Option<u64>,
    /// The last record.
    pub to: Option<u64>,
    /// What becomes of data.
    pub data: Data,
    /// Whether each record's user has to be allowed here what it did.
    pub judge: bool,
    /// Tell where the versions that records saw are not those that are here.
    pub warn: bool,
    /// Do nothing.
    pub dry_run: bool,
}

/// Records that a program has, and hands over as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// One or more records, each a frame as docs/format.md has it, in hexadecimal.
    pub frames: String,
    /// What becomes of data; there is none to bring, so that it is left and marked.
    #[serde(default)]
    pub data: Data,
    /// Whether each record's user has to be allowed here what it did.
    #[serde(default)]
    pub judge: bool,
}

impl Given {
    /// Takes them in.
    pub fn carry_out(&self, replica: &Replica, audience: &dyn Audience) -> Result<Report, Failure> {
        let records = self.records().map_err(|cause| {
            Failure::Failed(format!("could not read the records that were given: {cause}"))
        })?;
        let data = if self.data == Data::Count { OnData::Count } else { OnData::Absent };
        let taken = replica.receive(&records, How { data, judge: self.judge }, audience)?;
        let mut report = Report { absent: taken.absent, ..Report::default() };
        report.add(taken);
        Ok(report)
    }

    fn records(&self) -> Result<Vec<Record>, String> {
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let bytes = self.frames.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        let bytes: Vec<u8> = bytes.collect::<Option<_>>().ok_or("they are not in hexadecimal")?;
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let frame = Frame::read(&bytes[at..], at as u64).map_err(|error| error.to_string())?;
            at += frame.head.length;
            records.push(frame.record().map_err(|error| error.to_string())?);
        }
        Ok(records)
    }
}

/// What becomes of data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Bring it from the other tree and its attic
    #[default]
    Bring,
    /// Leave it, and mark the files as without their bytes
    Absent,
    /// Leave it, and note nothing
    Count,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records that were, or would be, done.
    pub applied: u64,
    /// Records that were known already, or whose effect was here.
    pub known: u64,
    /// Files whose bytes were brought.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that are without their bytes.
    pub absent: u64,
    /// The last record of the other log that was received.
    pub position: u64,
    /// Things that are not as a record saw them, and are in no way.
    pub warnings: Vec<String>,
    /// The record that could not be done.
    pub stopped: Option<Stopped>,
}

/// A record that could not be done, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Its number in the other log.
    pub recno: u64,
    /// Where it was first made.
    pub origin: String,
    /// The word for its kind.
    pub kind: String,
    /// Where it is about here.
    pub path: Vec<u8>,
    /// `conflict`, `refused`, `resource` or `damage`.
    pub answer: String,
    /// The class of a conflict or refusal.
    pub class: Option<String>,
    /// The object that it is about.
    pub object: Option<String>,
    /// What was expected and what is here.
    pub differences: Vec<Differs>,
    /// In words.
    pub message: String,
}

/// One thing that a record expected to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differs {
    /// What.
    pub field: String,
    /// What the record expected.
    pub expected: String,
    /// What is here.
    pub found: String,
}

impl Stopped {
    /// The exit status that tells the answer.
    pub fn exit_status(&self) -> u8 {
        match self.answer.as_str() {
            "conflict" => 3,
            "refused" => 4,
            "resource" => 5,
            _ => 6,
        }
    }
}

impl Wish {
    /// Does it.
    pub fn carry_out(&self, replica: &Replica, audience: &dyn Audience) -> Result<Report, Failure> {
        let (reader, source, _found) = open_log(&self.log)?;
        let ours = replica.fileset().config.id;
        if reader.fileset() != ours.0 {
            return Err(Failure::Failed(format!(
                "could not reintegrate {}: it is of fileset {}, and this is {ours}",
                self.log.display(),
                FilesetId(reader.fileset())
            )));
        }
        let peer = reader.replica();
        if peer == replica.fileset().config.replica {
            let log = self.log.display();
            return Err(Failure::Failed(format!(
                "could not reintegrate {log}: it is this replica's own log"
            )));
        }
        let position = replica.index().received_from(peer);
        let from = self.from.map_or(position.next(), Recno);
        let mut report = Report { position: position.0, ..Report::default() };
        if from != position.next() {
            report.warnings.push(format!(
                "record {from} does not follow {position}, the last that was received of this log"
            ));
        }
        let (outgoing, tree) = Outgoing::of(&reader)?;
        let beside = Beside { tree, source };
        let data = match self.data {
            Data::Bring => OnData::Bring(&beside),
            Data::Absent => OnData::Absent,
            Data::Count => OnData::Count,
        };
        let how = How { data, judge: self.judge };
        let to = Recno(self.to.unwrap_or(u64::MAX));
        let records = reader.from(from).take_while(|record| !record.as_ref().is_ok_and(|r| r.recno > to));
        if self.dry_run {
            let mut wanted = Vec::new();
            for record in records {
                let record = record?;
                wanted.extend(outgoing.sends(&record).then_some(record));
            }
            report.add(replica.preview(&wanted, self.judge)?);
            return Ok(report);
        }
        let mut absent = BTreeSet::new();
        let mut last = position;
        let mut batch = Vec::with_capacity(BATCH);
        for record in records {
            let record = record?;
            last = record.recno;
            if outgoing.sends(&record) {
                batch.push(record);
            }
            if batch.len() == BATCH {
                if !self.take(replica, (peer, last), &batch, how, (&mut report, &mut absent), audience)? {
                    return Ok(report);
                }
                batch.clear();
            }
        }
        self.take(replica, (peer, last), &batch, how, (&mut report, &mut absent), audience)?;
        Ok(report)
    }

    /// Takes a batch. False where it was stopped.
    fn take(
        &self,
        replica: &Replica,
        (peer, last): (ReplicaId, Recno),
        records: &[Record],
        how: How<'_>,
        (report, absent): (&mut Report, &mut BTreeSet<ObjectId>),
        audience: &dyn Audience,
    ) -> Result<bool, Failure> {
        if self.warn {
            let warnings = replica.differing_versions(records)?;
            let told =
                warnings.into_iter().map(|(recno, difference)| format!("record {recno}: {difference}"));
            report.warnings.extend(told.take(TOLD.saturating_sub(report.warnings.len())));
        }
        let mut taken = replica.receive(records, how, audience)?;
        let files = files_of(records);
        let filled = match how.data {
            OnData::Bring(source) => replica.fill(&files, source)?,
            _ => Default::default(),
        };
        // What an earlier batch had to leave may be overtaken by this one.
        absent.extend(files);
        absent.retain(|file| replica.index().entry(*file).is_ok_and(|entry| entry.is_some_and(|e| e.lost)));
        report.absent = absent.len() as u64;
        taken.files += filled.files;
        taken.bytes += filled.bytes;
        let reached = match &taken.stopped {
            Some(stop) => Recno(stop.record.recno.0 - 1),
            None => last,
        };
        replica.index().note_received(peer, reached);
        report.position = report.position.max(reached.0);
        report.add(taken);
        Ok(report.stopped.is_none())
    }
}

impl Report {
    fn add(&mut self, taken: Taken) {
        self.applied += taken.applied;
        self.known += taken.known;
        self.files += taken.files;
        self.bytes += taken.bytes;
        self.stopped = taken.stopped.map(|stop| stopped(*stop));
    }
}

fn stopped(stop: Stop) -> Stopped {
    let Stop { record, path, why } = stop;
    let message = why.to_string();
    let told = |answer: &str| Stopped {
        recno: record.recno.0,
        origin: record.origin.to_string(),
        kind: record.change.kind().to_owned(),
        path: path.clone(),
        answer: answer.to_owned(),
        class: None,
        object: None,
        differences: Vec::new(),
        message: message.clone(),
    };
    match why {
        Why::Damaged(_) => told("damage"),
        Why::Resource(_) => told("resource"),
        Why::Conflict(conflict) => Stopped {
            class: Some(conflict.class.word().to_owned()),
            object: Some(conflict.object.to_string()),
            differences: conflict
                .differences
                .iter()
                .map(|difference| Differs {
                    field: difference.field.to_string(),
                    expected: difference.expected.to_string(),
                    found: difference.found.to_string(),
                })
                .collect(),
            ..told(if conflict.class == Class::Permission { "refused" } else { "conflict" })
        },
    }
}

/// Files whose data the records tell of.
fn files_of(records: &[Record]) -> Vec<ObjectId> {
    let mut files: Vec<ObjectId> = records
        .iter()
        .filter_map(|record| match &record.change {
            Change::Make { object, .. } | Change::Close { object, .. } | Change::Setattr { object, .. } => {
                Some(*object)
            }
            _ => None,
        })
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// What came of it, for people.
pub fn tell(report: &Report, log: &Path, dry_run: bool) {
    for warning in &report.warnings {
        eprintln!("mezzo: {warning}");
    }
    let word = if dry_run { "records would be reintegrated" } else { "records reintegrated" };
    println!(
        "{} {word} from {}, {} were known: {} files with {} bytes brought; up to record {}",
        report.applied,
        log.display(),
        report.known,
        report.files,
        report.bytes,
        report.position
    );
    if report.absent > 0 {
        println!("{} files are without their bytes", report.absent);
    }
    if let Some(stopped) = &report.stopped {
        eprintln!(
            "mezzo: could not reintegrate record {} ({} {}), made as {}: {}",
            stopped.recno,
            stopped.kind,
            escape(&stopped.path),
            stopped.origin,
            stopped.message
        );
    }
}
