//! Records on their way: out of the own log, and in from the other's.

use std::collections::VecDeque;

use crate::id::Recno;

use super::message::{Ack, Body, Inline, Records, Refused};
use super::{AGAIN_AFTER, Act, Note, WINDOW_BYTES};

/// Records of the own log that were read to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The last record that was looked at.
    pub upto: Recno,
    /// Frames of those that concern the other.
    pub frames: Vec<u8>,
    /// Small data of them.
    pub data: Vec<Inline>,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.frames.len() + self.data.iter().map(|data| data.bytes.len()).sum::<usize>()
    }
}

/// What came of doing the other's records.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All of them are durable here.
    Done,
    /// There is no room, or data can't be had just now: the same is to be tried again.
    Later(String),
    /// One of them can't be done; those before it are durable here.
    Stopped(Stop),
    /// Nobody knows; the session can't go on.
    Failed(String),
}

/// A record of the other that can't be done here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why, as it is said to the other.
    pub refused: Refused,
}

/// The own records, on their way to the other.
#[derive(Debug, Default)]
pub struct Sending {
    /// Up to where records were read.
    read: Recno,
    /// Up to where they can be read.
    durable: Recno,
    /// Up to where the other has them.
    acknowledged: Recno,
    is_reading: bool,
    /// Nothing is sent for now, or any more.
    pub is_held: bool,
    is_refused: bool,
    /// What is on its way: the last record of a message, and its bytes.
    on_its_way: VecDeque<(Recno, usize)>,
    /// The permit's epoch that is told with each batch.
    pub permit: u64,
}

impl Sending {
    /// What follows record `after` is to be sent, of a log that is durable up to `durable`.
    pub fn new(after: Recno, durable: Recno) -> Sending {
        Sending { read: after, acknowledged: after, durable, is_held: true, ..Sending::default() }
    }

    /// Whether everything that is durable is there.
    pub fn is_done(&self) -> bool {
        self.acknowledged >= self.durable
    }

    pub fn durable(&mut self, upto: Recno) {
        self.durable = self.durable.max(upto);
    }

    /// Reads on, where there is anything to read and room on the way.
    pub fn go_on(&mut self, acts: &mut Vec<Act>) {
        let on_its_way: usize = self.on_its_way.iter().map(|(_, bytes)| bytes).sum();
        let stands = self.is_held || self.is_refused || self.is_reading;
        if !stands && self.read < self.durable && on_its_way < WINDOW_BYTES {
            self.is_reading = true;
            acts.push(Act::Read { after: self.read, upto: self.durable });
        }
    }

    pub fn was_read(&mut self, batch: Batch, acts: &mut Vec<Act>) -> Result<(), String> {
        if !std::mem::take(&mut self.is_reading) || batch.upto <= self.read {
            return Err("records were read that nobody asked for".to_owned());
        }
        let after = std::mem::replace(&mut self.read, batch.upto);
        self.on_its_way.push_back((batch.upto, batch.bytes()));
        acts.push(Act::Send(
            Body::Records(Records {
                after: after.0,
                upto: batch.upto.0,
                frames: batch.frames,
                data: batch.data,
                permit: self.permit,
            })
            .into(),
        ));
        self.go_on(acts);
        Ok(())
    }

    pub fn was_acknowledged(&mut self, ack: Ack, acts: &mut Vec<Act>) -> Result<(), String> {
        let upto = Recno(ack.upto);
        if upto < self.acknowledged || upto > self.read {
            return Err(format!("record {upto} was acknowledged, of {} that were sent", self.read));
        }
        self.acknowledged = upto;
        while self.on_its_way.front().is_some_and(|(last, _)| *last <= upto) {
            self.on_its_way.pop_front();
        }
        acts.push(Act::Note(Note::Acknowledged(upto)));
        self.go_on(acts);
        Ok(())
    }

    pub fn was_refused(&mut self, refused: Refused, acts: &mut Vec<Act>) {
        self.is_refused = true;
        acts.push(Act::Note(Note::Refused(refused)));
    }
}

/// The other's records, on their way in.
#[derive(Debug, Default)]
pub struct Receiving {
    /// Up to where messages came.
    came: Recno,
    /// Up to where they are durable here.
    done: Recno,
    waiting: VecDeque<Records>,
    bytes: usize,
    is_doing: bool,
    /// When it is tried again what there was no room for.
    again_at: Option<u64>,
    /// One can't be done, and nothing behind it is.
    pub is_stuck: bool,
}

impl Receiving {
    /// What follows record `after` of the other's log is to come.
    pub fn new(after: Recno) -> Receiving {
        Receiving { came: after, done: after, ..Receiving::default() }
    }

    /// Up to where the other's records are durable here.
    pub fn done(&self) -> Recno {
        self.done
    }

    pub fn came(&mut self, records: Records, acts: &mut Vec<Act>) -> Result<(), String> {
        let (after, upto) = (Recno(records.after), Recno(records.upto));
        if after != self.came || upto <= after {
            return Err(format!("records {after} to {upto} came behind record {}", self.came));
        }
        self.came = upto;
        if self.is_stuck {
            // They were on their way when it was said that one can't be done.
            return Ok(());
        }
        self.bytes += bytes_of(&records);
        // A message may begin below the window's end and go beyond it.
        if self.bytes > WINDOW_BYTES + super::MESSAGE_BYTES {
            return Err(format!("{} bytes came, which are more than were asked for", self.bytes));
        }
        self.waiting.push_back(records);
        self.go_on(acts);
        Ok(())
    }

    fn go_on(&mut self, acts: &mut Vec<Act>) {
        if !self.is_doing
            && self.again_at.is_none()
            && let Some(records) = self.waiting.front()
        {
            self.is_doing = true;
            acts.push(Act::Apply(records.clone()));
        }
    }

    pub fn was_done(&mut self, outcome: Outcome, now: u64, acts: &mut Vec<Act>) -> Result<(), String> {
        if !std::mem::take(&mut self.is_doing) {
            return Err("records were done that nobody asked for".to_owned());
        }
        match outcome {
            Outcome::Done => {
                if let Some(records) = self.waiting.pop_front() {
                    self.bytes -= bytes_of(&records);
                    self.done = Recno(records.upto);
                    acts.push(Act::Send(Body::Ack(Ack { upto: records.upto }).into()));
                }
            }
            Outcome::Later(why) => {
                self.again_at = Some(now + AGAIN_AFTER);
                acts.push(Act::Note(Note::Waiting(why)));
            }
            Outcome::Stopped(stop) => {
                self.is_stuck = true;
                self.waiting.clear();
                self.bytes = 0;
                acts.push(Act::Send(Body::Refused(stop.refused.clone()).into()));
                acts.push(Act::Note(Note::Stuck(stop)));
            }
            Outcome::Failed(why) => return Err(why),
        }
        self.go_on(acts);
        Ok(())
    }

    pub fn tick(&mut self, now: u64, acts: &mut Vec<Act>) {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.go_on(acts);
        }
    }
}

fn bytes_of(records: &Records) -> usize {
    records.frames.len() + records.data.iter().map(|data| data.bytes.len()).sum::<usize>()
}
