//! Machines against each other, without a socket: a server and clients whose logs are lists of origins.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::message::{Ack, Body, Message, Permit, Records, Refused, Snapshot};
use super::*;

const SERVER: ReplicaId = ReplicaId(100);

/// A replica's log, without what the records say.
#[derive(Clone, Debug, Default)]
struct Log {
    records: Vec<(u64, u64)>,
    received: BTreeMap<u64, u64>,
    /// Records that are here by a snapshot: up to which of each replica.
    heads: BTreeMap<u64, u64>,
    /// A snapshot is here in part.
    is_partial: bool,
}

impl Log {
    fn make(&mut self, replica: ReplicaId) {
        let recno = self.records.len() as u64 + 1;
        self.records.push((replica.0, recno));
        self.heads.insert(replica.0, recno);
    }

    fn facts(&self, replica: ReplicaId) -> Facts {
        let pairs = |map: &BTreeMap<u64, u64>| map.iter().map(|(r, n)| (ReplicaId(*r), Recno(*n))).collect();
        let last = Recno(self.records.len() as u64);
        Facts {
            fileset: [7; 16],
            ids: vec![(replica, last)],
            last,
            received: pairs(&self.received),
            heads: pairs(&self.heads),
            snapshot: last,
            host: "host".into(),
        }
    }

    fn take(&mut self, from: ReplicaId, records: &Records) {
        for frame in records.frames.chunks(16) {
            let [replica, recno] = [0, 8].map(|at| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap()));
            let head = self.heads.entry(replica).or_default();
            if recno > *head {
                *head = recno;
                self.records.push((replica, recno));
            }
        }
        self.received.insert(from.0, records.upto);
    }

    /// At most three of the records, without those of `not`.
    fn batch(&self, after: Recno, upto: Recno, not: impl Fn(u64) -> bool) -> Batch {
        let upto = Recno(upto.0.min(after.0 + 3));
        let frames =
            self.records[after.0 as usize..upto.0 as usize].iter().filter(|(replica, _)| !not(*replica));
        let bytes = frames.flat_map(|(replica, recno)| [replica.to_le_bytes(), recno.to_le_bytes()].concat());
        Batch { upto, frames: bytes.collect(), data: Vec::new() }
    }
}

/// One end of a link, and what is on its way to it.
struct End<M> {
    machine: M,
    inbox: VecDeque<Message>,
    todo: VecDeque<Act>,
}

struct Link {
    /// What a snapshot is of.
    snapshot: Recno,
    client: End<Client>,
    server: End<Server>,
}

struct World {
    server: Log,
    clients: Vec<Log>,
    links: Vec<Option<Link>>,
    permit: Permit,
}

impl World {
    fn new(clients: usize) -> World {
        let links = (0..clients).map(|_| None).collect();
        World {
            server: Log::default(),
            clients: vec![Log::default(); clients],
            links,
            permit: Permit::default(),
        }
    }

    fn account(&self) -> Account {
        Account { may_write: true, exclusive: false, permit: self.permit }
    }

    fn connect(&mut self, at: usize) {
        if self.clients[at].is_partial {
            self.clients[at] = Log::default();
        }
        let facts = self.clients[at].facts(ReplicaId(at as u64 + 1));
        let (client, acts) = Client::new(facts, self.clients[at].records.is_empty(), None);
        let server = Server::new(self.server.facts(SERVER), self.account());
        self.links[at] = Some(Link {
            snapshot: Recno(self.server.records.len() as u64),
            client: End { machine: client, inbox: VecDeque::new(), todo: acts.into() },
            server: End { machine: server, inbox: VecDeque::new(), todo: VecDeque::new() },
        });
    }

    /// Does one thing of a link, chosen by `pick`; false where there is nothing to do.
    fn step(&mut self, at: usize, pick: u8) -> bool {
        let Some(mut link) = self.links[at].take() else { return false };
        let replica = ReplicaId(at as u64 + 1);
        let mut did = true;
        match pick % 4 {
            0 if !link.client.todo.is_empty() => {
                let act = link.client.todo.pop_front().unwrap();
                let log = &mut self.clients[at];
                let event = match act {
                    Act::Send(message) => {
                        link.server.inbox.push_back(message);
                        None
                    }
                    Act::Read { after, upto } => {
                        Some(Event::Read(log.batch(after, upto, |of| of != replica.0)))
                    }
                    Act::Apply(records) => {
                        log.take(SERVER, &records);
                        Some(Event::Applied(Outcome::Done))
                    }
                    Act::Install(piece) => {
                        log.is_partial = !piece.is_last;
                        for frame in piece.frames.chunks(16) {
                            let [r, n] =
                                [0, 8].map(|at| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap()));
                            log.records.push((r, n));
                        }
                        if piece.is_last {
                            for (replica, recno) in &log.records {
                                log.heads.insert(*replica, *recno);
                            }
                            log.received.insert(SERVER.0, piece.at);
                        }
                        Some(Event::Installed(Ok(piece.upto)))
                    }
                    Act::Close(reason, why) => panic!("the client ended it: {reason:?}: {why}"),
                    Act::Note(_) => None,
                    Act::ReadSnapshot(_) => panic!("a client reads a snapshot"),
                };
                if let Some(event) = event {
                    link.client.todo.extend(link.client.machine.on(event));
                    // Records that came may be sent on; here they are not, but the log is longer.
                    let last = Recno(self.clients[at].records.len() as u64);
                    link.client.todo.extend(link.client.machine.on(Event::Durable(last)));
                }
            }
            1 if !link.server.todo.is_empty() => {
                let act = link.server.todo.pop_front().unwrap();
                let event = match act {
                    Act::Send(message) => {
                        link.client.inbox.push_back(message);
                        None
                    }
                    Act::Read { after, upto } => {
                        Some(Event::Read(self.server.batch(after, upto, |of| of == replica.0)))
                    }
                    Act::Apply(records) => {
                        self.server.take(replica, &records);
                        Some(Event::Applied(Outcome::Done))
                    }
                    Act::ReadSnapshot(from) => {
                        // Of the records that the server had when the session began; the newest position of each.
                        let at = link.snapshot;
                        let all = self.server.batch_upto(at);
                        let upto = (from + 2).min(at.0);
                        Some(Event::SnapshotRead(Snapshot {
                            at: at.0,
                            after: from,
                            upto,
                            frames: all[from as usize * 16..upto as usize * 16].to_vec(),
                            is_last: upto == at.0,
                            records: at.0,
                        }))
                    }
                    Act::Close(reason, why) => panic!("the server ended it: {reason:?}: {why}"),
                    Act::Note(_) => None,
                    Act::Install(_) => panic!("a server installs a snapshot"),
                };
                link.server.todo.extend(event.into_iter().flat_map(|event| link.server.machine.on(event)));
            }
            2 if !link.client.inbox.is_empty() => {
                let message = link.client.inbox.pop_front().unwrap();
                link.client.todo.extend(link.client.machine.on(Event::Message(message)));
            }
            3 if !link.server.inbox.is_empty() => {
                let message = link.server.inbox.pop_front().unwrap();
                link.server.todo.extend(link.server.machine.on(Event::Message(message)));
            }
            _ => did = false,
        }
        self.links[at] = Some(link);
        let last = Recno(self.server.records.len() as u64);
        for link in self.links.iter_mut().flatten() {
            let acts = link.server.machine.on(Event::Durable(last));
            link.server.todo.extend(acts);
        }
        did
    }

    fn work(&mut self, at: usize) {
        let Some(log) = self.clients.get_mut(at) else {
            self.server.make(SERVER);
            return;
        };
        let is_arriving = self.links[at].is_some() && log.records.is_empty();
        if log.is_partial || is_arriving {
            return;
        }
        log.make(ReplicaId(at as u64 + 1));
        let last = Recno(log.records.len() as u64);
        if let Some(link) = &mut self.links[at] {
            let acts = link.client.machine.on(Event::Durable(last));
            link.client.todo.extend(acts);
        }
    }

    /// Connects whoever is not, and lets everything happen that is on its way.
    fn settle(&mut self) {
        for at in 0..self.clients.len() {
            if self.links[at].is_none() {
                self.connect(at);
            }
        }
        let mut did = true;
        while did {
            did = false;
            for at in 0..self.clients.len() {
                for pick in 0..4 {
                    did |= self.step(at, pick);
                }
            }
        }
    }
}

impl Log {
    fn batch_upto(&self, upto: Recno) -> Vec<u8> {
        let records = &self.records[..upto.0 as usize];
        records
            .iter()
            .flat_map(|(replica, recno)| [replica.to_le_bytes(), recno.to_le_bytes()].concat())
            .collect()
    }
}

proptest! {
    /// Whatever is made where, and whenever links are cut, each record is everywhere once in the end.
    #[test]
    fn all_come_to_have_everything_once(happens in prop::collection::vec((0u8..10, 0usize..4, any::<u8>()), 0..400)) {
        let mut world = World::new(3);
        for (what, at, pick) in happens {
            match what {
                0 => world.work(at),
                1 if at < 3 => world.connect(at),
                2 if at < 3 => world.links[at] = None,
                _ if at < 3 => drop(world.step(at, pick)),
                _ => {}
            }
        }
        world.settle();
        let mut all = world.server.records.clone();
        all.sort_unstable();
        for (at, log) in world.clients.iter().enumerate() {
            let mut records = log.records.clone();
            records.sort_unstable();
            prop_assert_eq!(&records, &all, "client {}", at);
            prop_assert!(world.links[at].as_ref().unwrap().client.machine.is_settled());
        }
        let count = all.len();
        all.dedup();
        prop_assert_eq!(all.len(), count);
    }

    /// No message makes a machine panic, and what makes no sense ends the session.
    #[test]
    fn whatever_comes_is_taken_or_ends_the_session(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..20)
    ) {
        use prost::Message as _;
        let log = Log::default();
        let (mut client, _) = Client::new(log.facts(ReplicaId(1)), true, None);
        let mut server = Server::new(log.facts(SERVER), World::new(0).account());
        for bytes in messages {
            if let Ok(message) = Message::decode(&*bytes) {
                client.on(Event::Message(message.clone()));
                server.on(Event::Message(message));
            }
        }
    }
}

fn opened(account: Account, server: &Log, client: &Log) -> (Client, Server, Vec<Act>) {
    let (mut c, acts) = Client::new(client.facts(ReplicaId(1)), false, None);
    let mut s = Server::new(server.facts(SERVER), account);
    let Act::Send(hello) = &acts[0] else { panic!("{acts:?}") };
    let answer = s.on(Event::Message(hello.clone()));
    let Some(Act::Send(welcome)) = answer.first() else { panic!("{answer:?}") };
    let acts = c.on(Event::Message(welcome.clone()));
    (c, s, acts)
}

fn free() -> Account {
    Account { may_write: true, exclusive: false, permit: Permit::default() }
}

fn reason(acts: &[Act]) -> Option<Reason> {
    acts.iter().find_map(|act| match act {
        Act::Close(reason, _) => Some(*reason),
        _ => None,
    })
}

#[test]
fn histories_that_part_are_told() {
    let (mut server, mut client) = (Log::default(), Log::default());
    server.make(SERVER);
    // The client has more of the server's log than the server.
    client.received.insert(SERVER.0, 5);
    client.make(ReplicaId(1));
    let (_, _, acts) = opened(free(), &server, &client);
    assert_eq!(reason(&acts), Some(Reason::Parted));
    // The server has more of the client's log than the client.
    client.received.clear();
    server.received.insert(1, 9);
    let (_, _, acts) = opened(free(), &server, &client);
    assert_eq!(reason(&acts), Some(Reason::Parted));
}

#[test]
fn another_fileset_and_a_twin_are_refused() {
    let log = Log::default();
    let (_, acts) = Client::new(Facts { fileset: [8; 16], ..log.facts(ReplicaId(1)) }, false, None);
    let Act::Send(hello) = &acts[0] else { panic!() };
    let answer = Server::new(log.facts(SERVER), free()).on(Event::Message(hello.clone()));
    assert_eq!(reason(&answer), Some(Reason::Fileset));
    let (_, acts) = Client::new(log.facts(SERVER), false, None);
    let Act::Send(hello) = &acts[0] else { panic!() };
    let answer = Server::new(log.facts(SERVER), free()).on(Event::Message(hello.clone()));
    assert_eq!(reason(&answer), Some(Reason::Twin));
}

fn some_records(permit: u64) -> Message {
    Body::Records(Records { after: 0, upto: 1, frames: vec![0; 16], data: Vec::new(), permit }).into()
}

fn refusal(acts: &[Act]) -> Option<&Refused> {
    acts.iter().find_map(|act| match act {
        Act::Send(Message { body: Some(Body::Refused(refused)) }) => Some(refused),
        _ => None,
    })
}

#[test]
fn who_may_read_only_and_who_lost_the_permit_are_refused_and_nothing_is_done() {
    let mut client = Log::default();
    client.make(ReplicaId(1));
    let reader = Account { may_write: false, ..free() };
    let (mut c, mut s, acts) = opened(reader, &Log::default(), &client);
    assert!(!acts.iter().any(|act| matches!(act, Act::Read { .. })), "a reader sends: {acts:?}");
    assert!(c.on(Event::Durable(Recno(1))).is_empty());
    let acts = s.on(Event::Message(some_records(0)));
    assert_eq!(refusal(&acts).unwrap().answer, "rights");
    assert!(!acts.iter().any(|act| matches!(act, Act::Apply(_))));

    let permit = Permit { epoch: 4, holder: 1, at: 0, stolen: false };
    let (_, mut s, _) = opened(Account { exclusive: true, permit, ..free() }, &Log::default(), &client);
    assert!(s.on(Event::Message(some_records(4))).iter().any(|act| matches!(act, Act::Apply(_))));
    for (held, sent) in [(Permit { epoch: 5, ..permit }, 4), (Permit { holder: 2, epoch: 5, ..permit }, 5)] {
        let account = Account { exclusive: true, permit: held, ..free() };
        let (_, mut s, _) = opened(account, &Log::default(), &client);
        let acts = s.on(Event::Message(some_records(sent)));
        assert_eq!(refusal(&acts).unwrap().answer, "fenced");
        assert!(!acts.iter().any(|act| matches!(act, Act::Apply(_))));
    }
}

#[test]
fn without_the_permit_records_are_held_back_and_a_lost_one_is_told_of() {
    let (mut client, server) = (Log::default(), Log::default());
    client.make(ReplicaId(1));
    let reads = |acts: &[Act]| acts.iter().any(|act| matches!(act, Act::Read { .. }));
    let free_permit = Permit { epoch: 4, ..Permit::default() };
    let account = Account { exclusive: true, permit: free_permit, ..free() };
    let (mut c, mut s, acts) = opened(account.clone(), &server, &client);
    assert!(!reads(&acts), "{acts:?}");
    // It is given, and told with the records.
    let given = Permit { epoch: 5, holder: 1, ..free_permit };
    let acts = s.on(Event::PermitIs(given));
    let Act::Send(told) = &acts[0] else { panic!("{acts:?}") };
    let acts = c.on(Event::Message(told.clone()));
    assert!(acts.contains(&Act::Note(Note::Permit { permit: given, exclusive: true })) && reads(&acts));
    let acts = c.on(Event::Read(client.batch(Recno(0), Recno(1), |_| false)));
    let Act::Send(records) = &acts[0] else { panic!("{acts:?}") };
    assert!(s.on(Event::Message(records.clone())).iter().any(|act| matches!(act, Act::Apply(_))));
    // Given back, nothing more is sent.
    c.on(Event::Message(Body::Ack(Ack { upto: 1 }).into()));
    c.on(Event::PermitIs(Permit::default()));
    assert!(!reads(&c.on(Event::Durable(Recno(2)))));

    // Who had one that was stolen sends under it, and is refused.
    let (mut c, _) = Client::new(client.facts(ReplicaId(1)), false, None);
    c.set_permit(3);
    let mut s = Server::new(server.facts(SERVER), account);
    let (_, hello) = Client::new(client.facts(ReplicaId(1)), false, None);
    let Act::Send(hello) = &hello[0] else { panic!("{hello:?}") };
    let acts = s.on(Event::Message(hello.clone()));
    let Act::Send(welcome) = &acts[0] else { panic!("{acts:?}") };
    assert!(reads(&c.on(Event::Message(welcome.clone()))));
    let acts = c.on(Event::Read(client.batch(Recno(0), Recno(1), |_| false)));
    let Act::Send(records) = &acts[0] else { panic!("{acts:?}") };
    assert_eq!(refusal(&s.on(Event::Message(records.clone()))).unwrap().answer, "fenced");
}

#[test]
fn what_is_refused_stops_both_ways_and_is_told() {
    let (mut client, server) = (Log::default(), Log::default());
    client.make(ReplicaId(1));
    let (mut c, mut s, acts) = opened(free(), &server, &client);
    assert!(acts.contains(&Act::Read { after: Recno(0), upto: Recno(1) }));
    let acts = c.on(Event::Read(client.batch(Recno(0), Recno(1), |_| false)));
    let Act::Send(records) = &acts[0] else { panic!("{acts:?}") };
    s.on(Event::Message(records.clone()));
    let refused = Refused { recno: 1, answer: "conflict".into(), ..Refused::default() };
    let acts = s.on(Event::Applied(Outcome::Stopped(Stop { refused: refused.clone() })));
    let Act::Send(answer) = &acts[0] else { panic!("{acts:?}") };
    let acts = c.on(Event::Message(answer.clone()));
    assert_eq!(acts, [Act::Note(Note::Refused(refused))]);
    // Nothing more is sent or taken.
    assert!(c.on(Event::Durable(Recno(7))).is_empty());
    assert!(c.on(Event::Message(some_records(0))).is_empty());
}

#[test]
fn no_room_is_tried_again() {
    let (mut server, client) = (Log::default(), Log::default());
    server.make(SERVER);
    let (mut c, _, _) = opened(free(), &server, &client);
    c.on(Event::Tick(100));
    let acts = c.on(Event::Message(some_records(0)));
    assert!(matches!(&acts[..], [Act::Apply(_)]));
    let acts = c.on(Event::Applied(Outcome::Later("full".into())));
    assert_eq!(acts, [Act::Note(Note::Waiting("full".into()))]);
    assert!(c.on(Event::Tick(100)).is_empty());
    assert!(matches!(&c.on(Event::Tick(100 + AGAIN_AFTER))[..], [Act::Apply(_)]));
}

#[test]
fn who_says_nothing_is_asked_and_then_taken_for_dead() {
    let (mut c, _, _) = opened(free(), &Log::default(), &Log::default());
    assert!(c.on(Event::Tick(50)).is_empty());
    assert!(matches!(&c.on(Event::Tick(50 + ASK_AFTER))[..], [Act::Send(_)]));
    assert_eq!(reason(&c.on(Event::Tick(50 + DEAD_AFTER))), Some(Reason::Dead));
    let (mut c, mut s, _) = opened(free(), &Log::default(), &Log::default());
    c.on(Event::Tick(50));
    for now in (50..200).step_by(5) {
        for act in c.on(Event::Tick(now)) {
            let Act::Send(ping) = act else { panic!() };
            for act in s.on(Event::Message(ping)) {
                let Act::Send(pong) = act else { panic!() };
                c.on(Event::Message(pong));
            }
        }
    }
    assert!(reason(&c.on(Event::Tick(200))).is_none());
}

#[test]
fn what_is_on_its_way_is_bounded() {
    let mut server = Log::default();
    (0..100).for_each(|_| server.make(SERVER));
    let mut sending = flow::Sending::new(Recno(0), Recno(100));
    sending.is_held = false;
    let mut acts = Vec::new();
    sending.go_on(&mut acts);
    let mut sent = 0;
    while let Some(Act::Read { after, .. }) = acts.iter().find(|act| matches!(act, Act::Read { .. })).cloned()
    {
        acts.clear();
        sent += 1;
        let batch = Batch { upto: after.next(), frames: vec![0; BATCH_BYTES], data: Vec::new() };
        sending.was_read(batch, &mut acts).unwrap();
    }
    assert_eq!(sent, WINDOW_BYTES / BATCH_BYTES);
    acts.clear();
    sending.was_acknowledged(message::Ack { upto: 1 }, &mut acts).unwrap();
    assert!(acts.iter().any(|act| matches!(act, Act::Read { .. })));
    assert!(sending.was_acknowledged(message::Ack { upto: 99 }, &mut acts).is_err());
}
