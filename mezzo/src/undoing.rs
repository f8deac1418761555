//! What is to be taken back, as commands say it and the daemon hears it, and what came of it.

use std::cell::Cell;
use std::sync::Arc;

use mezzo_core::{Recno, Record, Who};
use mezzo_replica::undo::{Audience, Plan, Selection};
use mezzo_replica::{Caller, Error, Replica};
use serde::{Deserialize, Serialize};

use crate::commands::log::filter::Filter;

/// Runs of records, and hindrances, that a report tells of; of the rest only how many.
const TOLD: usize = 200;

/// What is to be taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Records up to here stay as they are.
    pub after: u64,
    /// At most so many.
    pub most: Option<u64>,
    /// Only these, where any are named.
    pub records: Vec<u64>,
    /// Only what passes.
    pub filter: Filter,
    /// Do again what was taken back last, in place of all that.
    pub redo: bool,
    /// Take along what depends on it.
    pub along: bool,
    /// Do nothing.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How many records were, or would be, taken back.
    pub records: u64,
    /// Which: newest and oldest of each run, newest first.
    pub runs: Vec<(u64, u64)>,
    /// Of them, those that were taken along.
    pub along: Vec<u64>,
    /// How many things stand in the way; then nothing was done.
    pub hindrances: u64,
    /// What they are.
    pub told: Vec<Told>,
}

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Of which record.
    pub record: u64,
    /// The word for its kind.
    pub kind: String,
    /// Its path.
    pub path: Vec<u8>,
    /// What it is.
    pub why: String,
    /// A later record about the same.
    pub by: Option<u64>,
}

/// Who asks, for the records of it.
pub fn caller(uid: u32, gid: u32, pid: u32) -> Caller {
    let who = Who { uid, gid, pid, program: (*b"mezzo").into(), ..Who::default() };
    Caller { who: Arc::new(who), ..Caller::program() }
}

impl Wish {
    /// Does it.
    pub fn carry_out(
        &self,
        replica: &Replica,
        caller: &Caller,
        audience: &dyn Audience,
    ) -> Result<Report, Error> {
        let group = Cell::new(None);
        let takes = |record: &Record| match self.redo {
            true => of_one_undo(record, &group),
            false => {
                (self.records.is_empty() || self.records.contains(&record.recno.0))
                    && self.filter.passes(record)
            }
        };
        let selection = Selection {
            after: Recno(self.after),
            most: self.most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)),
            takes: &takes,
            undos: self.redo,
            along: self.along,
        };
        let plan = match self.dry_run {
            true => replica.plan_undo(&selection)?,
            false => replica.undo(caller, &selection, audience)?,
        };
        Ok(report(plan))
    }
}

/// Whether the record is of the same undo as the first that was asked about: of one command.
fn of_one_undo(record: &Record, group: &Cell<Option<(u32, u32)>>) -> bool {
    let command = (record.who.uid, record.who.pid);
    if group.get().is_none() {
        group.set(Some(command));
    }
    group.get() == Some(command)
}

fn report(plan: Plan) -> Report {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for recno in &plan.records {
        match runs.last_mut() {
            Some((_, oldest)) if *oldest == recno.0 + 1 => *oldest = recno.0,
            _ => runs.push((recno.0, recno.0)),
        }
    }
    runs.truncate(TOLD);
    let told = plan.hindrances.iter().take(TOLD).map(|hindrance| Told {
        record: hindrance.record.0,
        kind: hindrance.kind.to_owned(),
        path: hindrance.path.clone(),
        why: hindrance.why.to_string(),
        by: hindrance.by.map(|by| by.0),
    });
    Report {
        records: plan.records.len() as u64,
        runs,
        along: plan.along.iter().take(TOLD).map(|recno| recno.0).collect(),
        hindrances: plan.hindrances.len() as u64,
        told: told.collect(),
    }
}
