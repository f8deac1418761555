//! The log done again on a tree that lost some of it with the power, before anybody uses the tree.
//!
//! A directory whose ctime is not newer than the log's is *behind*: what it has otherwise than the log is no change that
//! somebody made. First everything that stands where the log does not have it, in directories that are behind, is set aside;
//! then, from the root down, everything that is missing is put in its place, from what was set aside or made anew. So
//! directories may have been moved into each other in any way. What is newer than the log is left alone, to be taken in
//! afterwards. What remains aside was removed, as the log tells, and is removed again.
//!
//! It may be ended at any moment, and begins anew: what it has touched itself is told by when it was first begun.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use mezzo_core::{Attributes, DataVersion, Kind, Name, ObjectId, Place, State, Time};
use rustix::fs::{Mode, OFlags, RenameFlags};

use crate::Error;
use crate::demand::lacking;
use crate::fileset::OWN;
use crate::host::{self, Stat, xattr};
use crate::index::{Entry, Lacking};
use crate::meet::is_inode_of;
use crate::reintegrate::{create, finish_but_data};
use crate::replica::Replica;
use crate::verify::digest_of;

/// Where things are set aside, in `.mezzo`.
const ASIDE: &str = "aside";

/// A host may have an inode's new times before its bytes, for as long as it holds back writes: 30 seconds on Linux.
const SETTLED_SECONDS: i64 = 70;

/// An object that a record made, and that the index knows no inode of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unmet {
    pub object: ObjectId,
    /// When it was made.
    pub made: Time,
}

type Look = (Kind, u64, Time);

struct Redo<'a> {
    replica: &'a Replica,
    aside: Arc<OwnedFd>,
    /// When it was first begun after the power loss.
    since: Time,
    /// When the last record was made.
    last: Time,
    /// Objects whose inodes are not known, by when they were made, and by how they look.
    made: HashMap<Time, Vec<ObjectId>>,
    looks: HashMap<Look, Vec<ObjectId>>,
    /// The names by which objects stand aside.
    stands_aside: HashMap<ObjectId, Name>,
    /// Directories that are behind the log.
    behind: HashSet<ObjectId>,
    next_aside: u64,
    /// Objects, but for directories, whose names were moved: their ctimes moved as well.
    touched: HashSet<ObjectId>,
    /// Files that were newer than the log before a name of theirs was taken away here.
    newer: HashSet<ObjectId>,
    /// Inodes that stand in the attic.
    in_attic: HashSet<(u64, Time)>,
}

/// By what an object is told whose inode is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// A file with data has the size and mtime of it.
    Data,
    /// It was made when the inode was, and stands where it should.
    Place,
    /// It was made when the inode was, and looks the same.
    Look,
}

/// Where an object stands that is missing at one of its names.
enum Elsewhere {
    /// At another of them.
    InTree(Arc<OwnedFd>),
    /// In the attic, as the version that it has.
    InAttic(DataVersion),
    Nowhere,
}

/// A directory that is to be looked at.
struct Visit {
    parent: Arc<OwnedFd>,
    name: Name,
    object: Option<ObjectId>,
    behind: bool,
}

impl Replica {
    /// Makes the tree as the log has it, where it is behind. `since` is when this was first begun.
    pub(crate) fn redo(&self, since: Time, unmet: &[Unmet]) -> Result<(), Error> {
        let aside = open_aside(self.fileset().own())?;
        let mut made = HashMap::<_, Vec<_>>::new();
        let mut looks = HashMap::<_, Vec<_>>::new();
        for Unmet { object, made: time } in unmet {
            if let Some(entry) = self.index.entry(*object)?.filter(|entry| entry.host.is_none()) {
                made.entry(*time).or_default().push(*object);
                if entry.attributes().kind == Kind::File && entry.attributes().size > 0 {
                    looks.entry(look_of(entry.attributes())).or_default().push(*object);
                }
            }
        }
        let redo = Redo {
            replica: self,
            aside: Arc::new(aside),
            since,
            last: self.last_time()?,
            made,
            looks,
            stands_aside: HashMap::new(),
            behind: HashSet::new(),
            next_aside: 0,
            touched: HashSet::new(),
            newer: HashSet::new(),
            in_attic: HashSet::new(),
        };
        redo.run()
    }
}

impl Redo<'_> {
    fn run(mut self) -> Result<(), Error> {
        let root = Arc::new(host::reopen(self.replica.fileset().root(), OFlags::PATH | OFlags::DIRECTORY)?);
        for sign in [Sign::Data, Sign::Place, Sign::Look] {
            self.find(&root, sign)?;
        }
        self.part_attic_from_tree()?;
        self.set_all_aside(&root)?;
        self.put_all_back(&root)?;
        self.end_touch()?;
        // What stands aside is in its place for good before it goes from there, and all that is known of it too.
        host::sync_all(self.replica.fileset().root())?;
        self.replica.write_behind(true)?;
        for (name, _, _) in host::entries(&*self.aside)? {
            // What the log has and could not be put back, as somebody made another thing of its name meanwhile, stays.
            if self.replica.known_by_inode(&host::stat_entry(self.aside.as_fd(), &name)?)?.is_none() {
                remove_all(&self.aside, &name)?;
            }
        }
        Ok(host::sync_all(self.replica.fileset().root())?)
    }

    /// What replaces a file's data puts what it was into the attic, under a version's name. Where the power left the file at another
    /// name of its own too, it is not the attic's: what is given back to it would change what is kept.
    fn part_attic_from_tree(&mut self) -> Result<(), Error> {
        for (version, stat) in self.replica.attic.files()? {
            let Some(entry) = self.replica.also_in_tree(&stat)? else {
                self.in_attic.insert((stat.inode, stat.born));
                continue;
            };
            let Some(reach) = self.replica.attic.file(version)? else { continue };
            let same_size = stat.attributes.size == entry.attributes().size;
            let as_told = same_size && is_as_told(&entry.state, &stat.attributes, reach.as_fd())?;
            if !self.is_behind(&entry, &stat) && !as_told {
                self.newer.insert(entry.object);
            }
            self.touched.insert(entry.object);
            self.replica.unkeep(version)?;
        }
        Ok(())
    }

    fn set_all_aside(&mut self, root: &Arc<OwnedFd>) -> Result<(), Error> {
        let stat = host::stat(root.as_fd())?;
        let behind = self.is_behind(&*self.replica.entry(ObjectId::ROOT)?, &stat);
        if behind {
            self.behind.insert(ObjectId::ROOT);
        }
        let mut visits = Vec::new();
        // What an earlier run has set aside is known before anything takes its place.
        for (name, _, _) in host::entries(&*self.aside)? {
            self.next_aside = self.next_aside.max(number_of(&name).map_or(0, |number| number + 1));
            let aside_stat = host::stat_entry(self.aside.as_fd(), &name)?;
            let known = self.identify(&self.aside.clone(), &name, &aside_stat, None)?;
            self.visit_aside(name, known, &aside_stat, &mut visits);
        }
        self.set_aside_in(root, Some(ObjectId::ROOT), behind, stat.mount, &mut visits)?;
        while let Some(Visit { parent, name, object, behind }) = visits.pop() {
            let Ok(directory) = host::open_entry(parent.as_fd(), &name) else { continue };
            self.set_aside_in(&Arc::new(directory), object, behind, stat.mount, &mut visits)?;
        }
        Ok(())
    }

    fn visit_aside(&mut self, name: Name, known: Option<Arc<Entry>>, stat: &Stat, visits: &mut Vec<Visit>) {
        let object = known.as_ref().map(|entry| entry.object);
        if let Some(object) = object {
            self.touched.insert(object);
            self.stands_aside.entry(object).or_insert_with(|| name.clone());
        }
        if stat.attributes.kind == Kind::Directory {
            self.behind.extend(object);
            visits.push(Visit { parent: self.aside.clone(), name, object, behind: true });
        }
    }

    /// Sets aside what the log has not in this directory, and gives attributes back to what is in its place.
    fn set_aside_in(
        &mut self,
        directory: &Arc<OwnedFd>,
        object: Option<ObjectId>,
        behind: bool,
        mount: u64,
        visits: &mut Vec<Visit>,
    ) -> Result<(), Error> {
        for (name, _, _) in host::entries(&**directory)? {
            if object == Some(ObjectId::ROOT) && name.as_bytes() == OWN {
                continue;
            }
            let stat = host::stat_entry(directory.as_fd(), &name)?;
            if stat.mount != mount {
                continue;
            }
            let logged = object.map(|object| self.replica.index.child(object, &name)).transpose()?.flatten();
            let known = self.identify(directory, &name, &stat, logged)?;
            let known_object = known.as_ref().map(|entry| entry.object);
            let in_place = known_object.is_some() && known_object == logged;
            let entry_behind = known.as_ref().map_or(behind, |entry| self.is_behind(entry, &stat));
            // Something unknown that was made since was made by others.
            let is_new = known.is_none() && stat.born >= self.since;
            let aside = behind && !in_place && !is_new;
            let is_directory = stat.attributes.kind == Kind::Directory;
            if is_directory && entry_behind {
                self.behind.extend(known_object);
            }
            if aside {
                let aside_name = self.set_aside(directory, &name)?;
                if let Some(object) = known_object {
                    self.touched.extend((!is_directory).then_some(object));
                    self.stands_aside.entry(object).or_insert_with(|| aside_name.clone());
                }
                if is_directory {
                    visits.push(Visit {
                        parent: self.aside.clone(),
                        name: aside_name,
                        object: known_object,
                        behind: entry_behind,
                    });
                }
            } else if is_directory && !is_new {
                visits.push(Visit {
                    parent: directory.clone(),
                    name,
                    object: known_object,
                    behind: entry_behind,
                });
            } else if let Some(entry) = known.filter(|_| in_place && entry_behind && !is_directory) {
                let reach = host::open_entry(directory.as_fd(), &name)?;
                self.give_back(&entry, &stat, reach.as_fd())?;
            }
        }
        Ok(())
    }

    /// Whether what the host has of an object is not newer than the log's, or newer only by what was done here.
    fn is_behind(&self, entry: &Entry, stat: &Stat) -> bool {
        let ctime = stat.attributes.ctime;
        (ctime <= entry.host_ctime || ctime >= self.since) && !self.newer.contains(&entry.object)
    }

    /// Which object of the log an inode is.
    fn identify(
        &mut self,
        directory: &OwnedFd,
        name: &Name,
        stat: &Stat,
        logged: Option<ObjectId>,
    ) -> Result<Option<Arc<Entry>>, Error> {
        if let Some(entry) = self.replica.known_by_inode(stat)? {
            return Ok(Some(entry));
        }
        let logged = logged.map(|object| self.replica.index.entry(object)).transpose()?.flatten();
        let Some(entry) = logged else { return Ok(None) };
        // RACE: a file that somebody made behind the mount, after this was ended and before it began anew, is taken for one
        // that was made here.
        let ours = stat.born >= self.since && !self.stands_aside.contains_key(&entry.object);
        let taken_in = entry.host.is_none() && stat.attributes.kind != Kind::File;
        if (ours || taken_in) && can_be(&entry, directory, name, stat)? {
            return self.adopt_entry(&entry, directory, name, stat).map(Some);
        }
        Ok(None)
    }

    /// Finds objects of which no inode is known, wherever they stand: the surest first, as hosts' clocks are coarse and many
    /// objects are made at once.
    fn find(&self, root: &Arc<OwnedFd>, sign: Sign) -> Result<(), Error> {
        let mut directories = vec![(root.clone(), Some(ObjectId::ROOT)), (self.aside.clone(), None)];
        let mount = host::stat(root.as_fd())?.mount;
        while let Some((directory, object)) = directories.pop() {
            for (name, _, _) in host::entries(&*directory)? {
                let stat = host::stat_entry(directory.as_fd(), &name)?;
                if stat.mount != mount || object == Some(ObjectId::ROOT) && name.as_bytes() == OWN {
                    continue;
                }
                let mut known = self.replica.known_by_inode(&stat)?;
                if known.is_none() {
                    let logged = object.map(|object| self.replica.index.child(object, &name)).transpose()?;
                    let found = self.unmet_like(&directory, &name, &stat, logged.flatten(), sign)?;
                    let adopt = |entry: Arc<Entry>| self.adopt_entry(&entry, &directory, &name, &stat);
                    known = found.map(adopt).transpose()?;
                }
                if stat.attributes.kind == Kind::Directory {
                    let below = Arc::new(host::open_entry(directory.as_fd(), &name)?);
                    directories.push((below, known.map(|entry| entry.object)));
                }
            }
        }
        Ok(())
    }

    fn unmet_like(
        &self,
        directory: &OwnedFd,
        name: &Name,
        stat: &Stat,
        logged: Option<ObjectId>,
        sign: Sign,
    ) -> Result<Option<Arc<Entry>>, Error> {
        let look = look_of(&stat.attributes);
        let born = self.made.get(&stat.born).map(Vec::as_slice).unwrap_or_default();
        let by_look = self.looks.get(&look).map(Vec::as_slice).unwrap_or_default();
        let candidates = if sign == Sign::Data { by_look } else { born };
        let mut fitting = Vec::new();
        for object in candidates {
            let Some(entry) = self.replica.index.entry(*object)? else { continue };
            let fits = entry.host.is_none() && can_be(&entry, directory, name, stat)?;
            if fits && (sign == Sign::Place || look_of(entry.attributes()) == look) {
                fitting.push(entry);
            }
        }
        let here = fitting.iter().position(|entry| Some(entry.object) == logged);
        Ok(match (here, fitting.len()) {
            (Some(at), _) => Some(fitting.swap_remove(at)),
            (None, 1) if sign != Sign::Place => fitting.pop(),
            _ => None,
        })
    }

    fn adopt_entry(
        &self,
        entry: &Entry,
        directory: &OwnedFd,
        name: &Name,
        stat: &Stat,
    ) -> Result<Arc<Entry>, Error> {
        let reach = host::open_entry(directory.as_fd(), name)?;
        let id = self.replica.host_id(reach.as_fd(), stat)?;
        self.replica.index.met(entry.object, Some(id), entry.host_ctime)?;
        self.replica.entry(entry.object)
    }

    fn set_aside(&mut self, directory: &OwnedFd, name: &Name) -> Result<Name, Error> {
        let aside_name = self.new_name()?;
        host::rename(directory.as_fd(), name, self.aside.as_fd(), &aside_name, RenameFlags::NOREPLACE)?;
        Ok(aside_name)
    }

    fn new_name(&mut self) -> Result<Name, Error> {
        self.next_aside += 1;
        Name::new(self.next_aside.to_string().as_bytes())
            .map_err(|_| Error::Host(io::Error::from_raw_os_error(libc::EINVAL)))
    }

    fn put_all_back(&mut self, root: &Arc<OwnedFd>) -> Result<(), Error> {
        let mut visits = vec![(root.clone(), ObjectId::ROOT)];
        while let Some((directory, object)) = visits.pop() {
            let children = self.replica.index.children(object)?;
            let behind = self.behind.contains(&object);
            for (name, child) in &children {
                // What was set aside is put back in any case: nothing that the log has may stay there.
                if (behind || self.stands_aside.contains_key(child))
                    && self.replica.stat_if_there(directory.as_fd(), name)?.is_none()
                {
                    self.put_back(&Place::new(object, name.clone()), *child, &directory)?;
                }
            }
            if behind {
                let stat = host::stat(directory.as_fd())?;
                self.give_back(&*self.replica.entry(object)?, &stat, directory.as_fd())?;
            }
            for (name, child) in children {
                let entry = self.replica.entry(child)?;
                if entry.is_directory()
                    && let Some(stat) = self.replica.stat_if_there(directory.as_fd(), &name)?
                    && is_inode_of(&entry, &stat)
                {
                    visits.push((Arc::new(host::open_entry(directory.as_fd(), &name)?), child));
                }
            }
        }
        Ok(())
    }

    /// Gives an object a name that it has lost: the object itself, wherever it stands, or one that is made anew.
    fn put_back(&mut self, place: &Place, object: ObjectId, directory: &OwnedFd) -> Result<(), Error> {
        let entry = self.replica.entry(object)?;
        let to = (directory.as_fd(), &place.name);
        match self.stands_aside.get(&object).cloned() {
            Some(name) if entry.is_directory() => {
                host::rename(self.aside.as_fd(), &name, to.0, to.1, RenameFlags::NOREPLACE)?;
                self.stands_aside.remove(&object);
            }
            Some(name) => {
                let from = host::open_entry(self.aside.as_fd(), &name)?;
                host::link(from.as_fd(), to.0, to.1)?;
            }
            None => match self.reach_elsewhere(&entry)? {
                Elsewhere::InTree(reach) => host::link(reach.as_fd(), to.0, to.1)?,
                Elsewhere::InAttic(version) => {
                    self.replica.attic.give(version, to.0, to.1)?;
                    self.replica.index.given_up(version)?;
                    self.in_attic
                        .retain(|inode| entry.host.as_ref().is_none_or(|host| host.inode != inode.0));
                }
                Elsewhere::Nowhere => {
                    self.make_anew(&entry, to)?;
                    self.behind.extend(entry.is_directory().then_some(object));
                    return Ok(());
                }
            },
        }
        if !entry.is_directory() {
            self.touched.insert(object);
            let reach = host::open_entry(to.0, to.1)?;
            let stat = host::stat(reach.as_fd())?;
            self.give_back(&entry, &stat, reach.as_fd())?;
        }
        Ok(())
    }

    /// Every object is in its place. Names that they still have aside go, and what is not newer than the log is noted to be as
    /// the log has it.
    fn end_touch(&self) -> Result<(), Error> {
        for (name, _, _) in host::entries(&*self.aside)? {
            let stat = host::stat_entry(self.aside.as_fd(), &name)?;
            let known = self.replica.known_by_inode(&stat)?.filter(|entry| !entry.is_directory());
            if known.is_some_and(|entry| stat.host_links as usize > entry.places.len()) {
                host::unlink(self.aside.as_fd(), &name, false)?;
            }
        }
        for object in &self.touched {
            let entry = self.replica.entry(*object)?;
            if entry.is_directory() {
                continue;
            }
            let Ok(reach) = self.replica.reach(&entry) else { continue };
            let stat = host::stat(reach.as_fd())?;
            if is_inode_of(&entry, &stat) && self.is_behind(&entry, &stat) {
                self.replica.index.met(*object, None, stat.attributes.ctime)?;
            }
        }
        Ok(())
    }

    /// Where else an object stands. What the attic has as a version that the object had before is kept as that.
    fn reach_elsewhere(&self, entry: &Entry) -> Result<Elsewhere, Error> {
        let Ok(reach) = self.replica.reach(entry) else { return Ok(Elsewhere::Nowhere) };
        let stat = host::stat(reach.as_fd())?;
        if entry.is_directory() || !is_inode_of(entry, &stat) || stat.host_links == 0 {
            return Ok(Elsewhere::Nowhere);
        }
        if !self.in_attic.contains(&(stat.inode, stat.born)) {
            return Ok(Elsewhere::InTree(reach));
        }
        let Some(version) = entry.version() else { return Ok(Elsewhere::Nowhere) };
        let kept = self.replica.attic.file(version)?.map(|file| host::stat(file.as_fd())).transpose()?;
        Ok(match kept.is_some_and(|kept| is_inode_of(entry, &kept)) {
            true => Elsewhere::InAttic(version),
            false => Elsewhere::Nowhere,
        })
    }

    /// Nothing of the object is left. It is made aside, so that it is whole when it is in its place.
    fn make_anew(&mut self, entry: &Entry, (directory, name): (BorrowedFd<'_>, &Name)) -> Result<(), Error> {
        let aside_name = self.new_name()?;
        create(self.aside.as_fd(), &aside_name, &entry.state)?;
        let reach = host::open_entry(self.aside.as_fd(), &aside_name)?;
        let stat = host::stat(reach.as_fd())?;
        let id = self.replica.host_id(reach.as_fd(), &stat)?;
        self.replica.index.met(entry.object, Some(id), stat.attributes.ctime)?;
        self.give_back(entry, &stat, reach.as_fd())?;
        host::rename(self.aside.as_fd(), &aside_name, directory, name, RenameFlags::NOREPLACE)?;
        let ctime = host::stat(reach.as_fd())?.attributes.ctime;
        Ok(self.replica.index.met(entry.object, None, ctime)?)
    }

    /// Gives an object back what the log says of it. Bytes that are gone can't be given back: the file keeps those that it
    /// has, and is marked.
    fn give_back(&self, entry: &Entry, stat: &Stat, reach: BorrowedFd<'_>) -> Result<(), Error> {
        let state = &entry.state;
        let is_file = state.attributes.kind == Kind::File;
        let recent = stat.attributes.ctime.seconds >= self.last.seconds.saturating_sub(SETTLED_SECONDS);
        let same_size = !is_file || stat.attributes.size == state.attributes.size;
        let is_current = stat.attributes.ctime == entry.host_ctime && same_size;
        if is_current && !recent {
            return Ok(());
        }
        if is_file && state.attributes.size == 0 && stat.attributes.size > 0 {
            host::set_size(reach, 0)?;
        }
        let lost = is_file && (entry.lost || self.is_data_lost(entry, stat, reach)?);
        if is_current && lost == entry.lost && is_as_told(state, &stat.attributes, reach)? {
            return Ok(());
        }
        finish_but_data(reach, state, !lost)?;
        if is_file {
            xattr::mark_lost(
                reach,
                lost.then(|| host::stat(reach)).transpose()?.map(|stat| stat.attributes).as_ref(),
            )?;
        }
        let ctime = host::stat(reach)?.attributes.ctime;
        self.replica.index.met(entry.object, None, ctime)?;
        let lacking = if lost { lacking(reach) } else { Lacking::Nothing };
        Ok(self.replica.index.set_lacking(entry.object, lacking)?)
    }

    /// Whether a file lacks bytes that the log tells of.
    fn is_data_lost(&self, entry: &Entry, stat: &Stat, reach: BorrowedFd<'_>) -> Result<bool, Error> {
        let (told, here) = (entry.attributes(), &stat.attributes);
        if told.size == 0 || told.size != here.size {
            return Ok(told.size != 0);
        }
        if xattr::is_lost_still(reach, here) {
            return Ok(true);
        }
        match entry.state.data.and_then(|data| data.digest) {
            Some(digest) => Ok(digest_of(&host::reopen(reach, OFlags::RDONLY)?)? != digest),
            None => Ok(told.mtime != here.mtime),
        }
    }
}

/// Whether everything but data is as the log tells. Hosts' clocks are coarse: several changes have the same ctime, of which the
/// power may have left only the first.
fn is_as_told(state: &State, here: &Attributes, reach: BorrowedFd<'_>) -> Result<bool, Error> {
    let told = &state.attributes;
    Ok((told.mode, told.uid, told.gid, told.mtime) == (here.mode, here.uid, here.gid, here.mtime)
        && xattr::all(reach)? == state.xattrs)
}

/// What tells one object from others that were made at the same time: hardly two have the same mtime.
fn look_of(attributes: &Attributes) -> Look {
    (attributes.kind, attributes.size, attributes.mtime)
}

/// Whether an inode can be the object, by what of it never changes.
fn can_be(entry: &Entry, directory: &OwnedFd, name: &Name, stat: &Stat) -> Result<bool, Error> {
    let (told, here) = (entry.attributes(), &stat.attributes);
    if (told.kind, told.device) != (here.kind, here.device) {
        return Ok(false);
    }
    if here.kind != Kind::Symlink {
        return Ok(true);
    }
    let link = host::open_entry(directory.as_fd(), name)?;
    Ok(host::read_link(link.as_fd())? == entry.state.target)
}

fn open_aside(own: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    match rustix::fs::mkdirat(own, ASIDE, Mode::from_bits_retain(0o700)) {
        Err(rustix::io::Errno::EXIST) => {}
        made => made.map_err(io::Error::from)?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(own, ASIDE, flags, Mode::empty()).map_err(io::Error::from)?)
}

fn number_of(name: &Name) -> Option<u64> {
    std::str::from_utf8(name.as_bytes()).ok()?.parse().ok()
}

/// Removes a name with all that is below it.
fn remove_all(directory: &OwnedFd, name: &Name) -> Result<(), Error> {
    let mut doomed = vec![(Arc::new(directory.try_clone()?), name.clone(), false)];
    while let Some((parent, name, emptied)) = doomed.pop() {
        let is_directory = host::stat_entry(parent.as_fd(), &name)?.attributes.kind == Kind::Directory;
        if is_directory && !emptied {
            let below = Arc::new(host::open_entry(parent.as_fd(), &name)?);
            doomed.push((parent, name, true));
            doomed
                .extend(host::entries(&*below)?.into_iter().map(|(name, _, _)| (below.clone(), name, false)));
        } else {
            host::unlink(parent.as_fd(), &name, is_directory)?;
        }
    }
    Ok(())
}
