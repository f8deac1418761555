//! The index on disk: one redb file that can always be made again.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use mezzo_core::id::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use mezzo_core::{Name, Time};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::attic::Kept;
use super::entry::{Entry, Weight};
use super::layer::Layer;

/// Changes whenever the meaning of the file does; a file with another number is thrown away and built anew.
const FORMAT: u64 = 8;

/// Pages that redb may keep in memory. A fileset's hot entries are in the index's own cache above it.
const CACHE_BYTES: usize = 24 << 20;

const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
const INODES: TableDefinition<u64, &[u8]> = TableDefinition::new("inodes");
/// What inodes are shown as, where that is not their own number.
const NUMBERS: TableDefinition<u64, u64> = TableDefinition::new("numbers");
const NAMES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("names");
const ATTIC: TableDefinition<&[u8], u64> = TableDefinition::new("attic");
/// Since when each version is in the attic: the way to its key there.
const KEPT: TableDefinition<&[u8], &[u8]> = TableDefinition::new("kept");
/// Files that lack bytes, and whether those are absent.
const LACKING: TableDefinition<&[u8], bool> = TableDefinition::new("lacking");
/// When files were opened, in milliseconds since 1970, where that is noted.
const USED: TableDefinition<&[u8], u64> = TableDefinition::new("used");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// What is known of other replicas, and of this one: the last record of its making that was applied here, and the last record of
/// its log that was received.
const REPLICAS: TableDefinition<u64, (u64, u64)> = TableDefinition::new("replicas");

/// The index file can't be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} the index: {cause}")]
pub struct StoreError {
    operation: &'static str,
    cause: String,
}

/// The file.
pub(super) struct Store {
    database: Database,
}

/// The tables as they were at one moment.
pub(super) struct Snapshot {
    objects: ReadOnlyTable<&'static [u8], &'static [u8]>,
    inodes: ReadOnlyTable<u64, &'static [u8]>,
    names: ReadOnlyTable<&'static [u8], &'static [u8]>,
    attic: ReadOnlyTable<&'static [u8], u64>,
    kept: ReadOnlyTable<&'static [u8], &'static [u8]>,
    lacking: ReadOnlyTable<&'static [u8], bool>,
    used: ReadOnlyTable<&'static [u8], u64>,
    /// Totals.
    pub totals: Totals,
}

/// What is known of each replica.
pub(super) type Heard = BTreeMap<ReplicaId, FromReplica>;

/// What is known of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FromReplica {
    /// The last record of its making that was applied here.
    pub made: Recno,
    /// The last record of its log that was received.
    pub received: Recno,
}

/// Numbers that are kept beside the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// The last record that the tables know of.
    pub applied: Recno,
    /// Objects.
    pub objects: u64,
    /// Bytes that the attic's files have in all.
    pub attic_bytes: u64,
    /// Files in the attic.
    pub attic_files: u64,
    /// The data of files.
    pub data: DataTotals,
}

/// How much data there is, and how much of it is not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataTotals {
    /// Bytes of all files, as the log has them.
    pub bytes: u64,
    /// Files that lost bytes with the power.
    pub lost_files: u64,
    /// Their sizes.
    pub lost_bytes: u64,
    /// Files whose bytes never were here, or were evicted.
    pub absent_files: u64,
    /// Their sizes.
    pub absent_bytes: u64,
}

impl DataTotals {
    /// Bytes of the files whose data is here.
    pub fn here(&self) -> u64 {
        self.bytes.saturating_sub(self.lost_bytes + self.absent_bytes)
    }

    pub(super) fn add(&mut self, weight: Weight) {
        self.count(weight, |total, bytes| *total += bytes);
    }

    pub(super) fn remove(&mut self, weight: Weight) {
        self.count(weight, |total, bytes| *total = total.saturating_sub(bytes));
    }

    fn count(&mut self, Weight { bytes, lost, absent }: Weight, count: impl Fn(&mut u64, u64)) {
        count(&mut self.bytes, bytes);
        if absent {
            count(&mut self.absent_files, 1);
            count(&mut self.absent_bytes, bytes);
        } else if lost {
            count(&mut self.lost_files, 1);
            count(&mut self.lost_bytes, bytes);
        }
    }
}

fn failed(operation: &'static str) -> impl Fn(redb::Error) -> StoreError {
    move |cause| StoreError { operation, cause: cause.to_string() }
}

macro_rules! tried {
    ($operation:literal, $result:expr) => {
        $result.map_err(|error| failed($operation)(error.into()))
    };
}

impl Store {
    /// Opens the file, or makes it; one that is damaged or of another format is made anew, empty.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        if let Ok(store) = Store::open_once(path)
            && store.is_current()
        {
            return Ok(store);
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError { operation: "replace", cause: error.to_string() })
            }
            _ => Store::open_once(path),
        }
    }

    fn open_once(path: &Path) -> Result<Store, StoreError> {
        let database = tried!("open", Database::builder().set_cache_size(CACHE_BYTES).create(path))?;
        let store = Store { database };
        if tried!("open", store.database.begin_read())?
            .list_tables()
            .is_ok_and(|mut tables| tables.next().is_none())
        {
            store.write(true, |transaction| {
                let mut meta = tried!("make", transaction.open_table(META))?;
                tried!("make", meta.insert("format", FORMAT))?;
                tried!("make", transaction.open_table(OBJECTS))?;
                tried!("make", transaction.open_table(INODES))?;
                tried!("make", transaction.open_table(NUMBERS))?;
                tried!("make", transaction.open_table(NAMES))?;
                tried!("make", transaction.open_table(ATTIC))?;
                tried!("make", transaction.open_table(KEPT))?;
                tried!("make", transaction.open_table(LACKING))?;
                tried!("make", transaction.open_table(USED))?;
                tried!("make", transaction.open_table(REPLICAS))?;
                Ok(())
            })?;
        }
        Ok(store)
    }

    fn is_current(&self) -> bool {
        let format = || {
            let meta = self.database.begin_read().ok()?.open_table(META).ok()?;
            meta.get("format").ok()?.map(|value| value.value())
        };
        format() == Some(FORMAT)
    }

    fn write(
        &self,
        durable: bool,
        fill: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut transaction = tried!("write", self.database.begin_write())?;
        if durable {
            // Without it, the first opening after a crash reads the whole file.
            transaction.set_quick_repair(true);
        } else {
            tried!("write", transaction.set_durability(Durability::None).map_err(redb::Error::from))?;
        }
        fill(&transaction)?;
        tried!("write", transaction.commit())
    }

    /// Writes a layer; with `durable`, this and all before it survive a power loss.
    pub fn merge(
        &self,
        layer: &Layer,
        totals: Totals,
        heard: &Heard,
        durable: bool,
    ) -> Result<(), StoreError> {
        self.write(durable, |transaction| {
            merge_heard(transaction, heard)?;
            merge_objects(transaction, layer)?;
            merge_inodes(transaction, layer)?;
            merge_numbers(transaction, layer)?;
            merge_names(transaction, layer)?;
            merge_attic(transaction, layer)?;
            merge_data(transaction, layer)?;
            let mut meta = tried!("write", transaction.open_table(META))?;
            for (name, value) in totals.named() {
                tried!("write", meta.insert(name, value))?;
            }
            Ok(())
        })
    }

    /// What is known of replicas.
    pub fn heard(&self) -> Result<Heard, StoreError> {
        let read = tried!("read", self.database.begin_read())?;
        let table = tried!("read", read.open_table(REPLICAS))?;
        let mut heard = Heard::new();
        for pair in tried!("read", table.iter())? {
            let (replica, told) = tried!("read", pair)?;
            let (made, received) = told.value();
            let told = FromReplica { made: Recno(made), received: Recno(received) };
            heard.insert(ReplicaId(replica.value()), told);
        }
        Ok(heard)
    }

    /// What inodes are shown as, where that is not their own number.
    pub fn numbers(&self) -> Result<HashMap<u64, u64>, StoreError> {
        let read = tried!("read", self.database.begin_read())?;
        let table = tried!("read", read.open_table(NUMBERS))?;
        let pairs = tried!("read", table.iter())?;
        pairs
            .map(|pair| tried!("read", pair).map(|(inode, number)| (inode.value(), number.value())))
            .collect()
    }

    /// The tables as they are now.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let read = tried!("read", self.database.begin_read())?;
        let meta = tried!("read", read.open_table(META))?;
        let number = |name: &str| -> Result<u64, StoreError> {
            Ok(tried!("read", meta.get(name))?.map_or(0, |value| value.value()))
        };
        Ok(Snapshot {
            objects: tried!("read", read.open_table(OBJECTS))?,
            inodes: tried!("read", read.open_table(INODES))?,
            names: tried!("read", read.open_table(NAMES))?,
            attic: tried!("read", read.open_table(ATTIC))?,
            kept: tried!("read", read.open_table(KEPT))?,
            lacking: tried!("read", read.open_table(LACKING))?,
            used: tried!("read", read.open_table(USED))?,
            totals: Totals {
                applied: Recno(number("applied")?),
                objects: number("objects")?,
                attic_bytes: number("attic_bytes")?,
                attic_files: number("attic_files")?,
                data: DataTotals {
                    bytes: number("bytes")?,
                    lost_files: number("lost_files")?,
                    lost_bytes: number("lost_bytes")?,
                    absent_files: number("absent_files")?,
                    absent_bytes: number("absent_bytes")?,
                },
            },
        })
    }
}

impl Totals {
    fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("applied", self.applied.0),
            ("objects", self.objects),
            ("attic_bytes", self.attic_bytes),
            ("attic_files", self.attic_files),
            ("bytes", self.data.bytes),
            ("lost_files", self.data.lost_files),
            ("lost_bytes", self.data.lost_bytes),
            ("absent_files", self.data.absent_files),
            ("absent_bytes", self.data.absent_bytes),
        ]
    }
}

/// In the order of keys, which is the order of pages.
fn sorted<K: Ord + Copy, V>(map: &HashMap<K, V>) -> Vec<(K, &V)> {
    let mut pairs: Vec<(K, &V)> = map.iter().map(|(key, value)| (*key, value)).collect();
    pairs.sort_unstable_by_key(|(key, _)| *key);
    pairs
}

fn merge_heard(transaction: &WriteTransaction, heard: &Heard) -> Result<(), StoreError> {
    let mut table = tried!("write", transaction.open_table(REPLICAS))?;
    for (replica, told) in heard {
        tried!("write", table.insert(replica.0, (told.made.0, told.received.0)))?;
    }
    Ok(())
}

fn merge_objects(transaction: &WriteTransaction, layer: &Layer) -> Result<(), StoreError> {
    let mut table = tried!("write", transaction.open_table(OBJECTS))?;
    for (object, entry) in sorted(&layer.objects) {
        let key = object_key(object);
        match entry {
            Some(entry) => tried!("write", table.insert(&key[..], &entry.to_bytes()[..]))?,
            None => tried!("write", table.remove(&key[..]))?,
        };
    }
    Ok(())
}

fn merge_inodes(transaction: &WriteTransaction, layer: &Layer) -> Result<(), StoreError> {
    let mut table = tried!("write", transaction.open_table(INODES))?;
    for (inode, object) in sorted(&layer.inodes) {
        match object {
            Some(object) => tried!("write", table.insert(inode, &object_key(*object)[..]))?,
            None => tried!("write", table.remove(inode))?,
        };
    }
    Ok(())
}

fn merge_numbers(transaction: &WriteTransaction, layer: &Layer) -> Result<(), StoreError> {
    let mut table = tried!("write", transaction.open_table(NUMBERS))?;
    for (inode, number) in sorted(&layer.numbers) {
        match number {
            Some(number) => tried!("write", table.insert(inode, number))?,
            None => tried!("write", table.remove(inode))?,
        };
    }
    Ok(())
}

fn merge_names(transaction: &WriteTransaction, layer: &Layer) -> Result<(), StoreError> {
    let mut table = tried!("write", transaction.open_table(NAMES))?;
    for ((parent, name), object) in &layer.names {
        let key = name_key(*parent, name.as_bytes());
        match object {
            Some(object) => tried!("write", table.insert(&key[..], &object_key(*object)[..]))?,
            None => tried!("write", table.remove(&key[..]))?,
        };
    }
    Ok(())
}

fn merge_attic(transaction: &WriteTransaction, layer: &Layer) -> Result<(), StoreError> {
    let mut table = tried!("write", transaction.open_table(ATTIC))?;
    for (kept, present) in &layer.attic {
        let key = kept.key();
        match present {
            Some(bytes) => tried!("write", table.insert(&key[..], bytes))?,
            None => tried!("write", table.remove(&key[..]))?,
        };
    }
    let mut table = tried!("write", transaction.open_table(KEPT))?;
    for (version, since) in &layer.kept {
        let key = object_key(ObjectId(version.0));
        match since {
            Some(since) => tried!("write", table.insert(&key[..], &time_key(*since)[..]))?,
            None => tried!("write", table.remove(&key[..]))?,
        };
    }
    Ok(())
}

fn merge_data(transaction: &WriteTransaction, layer: &Layer) -> Result<(), StoreError> {
    let mut table = tried!("write", transaction.open_table(LACKING))?;
    for (object, absent) in &layer.lacking {
        let key = object_key(*object);
        match absent {
            Some(absent) => tried!("write", table.insert(&key[..], absent))?,
            None => tried!("write", table.remove(&key[..]))?,
        };
    }
    let mut table = tried!("write", transaction.open_table(USED))?;
    for (object, used) in sorted(&layer.used) {
        let key = object_key(object);
        match used {
            Some(used) => tried!("write", table.insert(&key[..], used))?,
            None => tried!("write", table.remove(&key[..]))?,
        };
    }
    Ok(())
}

/// The keys behind that of an object; all of them for `None`.
fn behind(after: Option<ObjectId>) -> Vec<u8> {
    // The shortest key that is greater.
    after.map_or_else(Vec::new, |object| [&object_key(object)[..], &[0]].concat())
}

impl Snapshot {
    /// Up to `count` files behind `after` that lack bytes, and whether those are absent.
    pub fn lacking(
        &self,
        after: Option<ObjectId>,
        count: usize,
    ) -> Result<Vec<(ObjectId, bool)>, StoreError> {
        let pairs = tried!("read", self.lacking.range(&behind(after)[..]..))?;
        pairs
            .take(count)
            .map(|pair| {
                let (key, absent) = tried!("read", pair)?;
                Ok((object_of(key.value()).ok_or_else(|| damaged("a file"))?, absent.value()))
            })
            .collect()
    }

    /// Up to `count` objects behind `after`.
    pub fn objects(&self, after: Option<ObjectId>, count: usize) -> Result<Vec<Entry>, StoreError> {
        let pairs = tried!("read", self.objects.range(&behind(after)[..]..))?;
        pairs
            .take(count)
            .map(|pair| {
                let (key, bytes) = tried!("read", pair)?;
                let object = object_of(key.value()).ok_or_else(|| damaged("an object"))?;
                Entry::from_bytes(object, bytes.value()).ok_or_else(|| damaged("an object"))
            })
            .collect()
    }

    pub fn used(&self, object: ObjectId) -> Result<Option<u64>, StoreError> {
        Ok(tried!("read", self.used.get(&object_key(object)[..]))?.map(|used| used.value()))
    }

    pub fn entry(&self, object: ObjectId) -> Result<Option<Entry>, StoreError> {
        let found = tried!("read", self.objects.get(&object_key(object)[..]))?;
        found
            .map(|bytes| Entry::from_bytes(object, bytes.value()).ok_or_else(|| damaged("an object")))
            .transpose()
    }

    pub fn by_inode(&self, inode: u64) -> Result<Option<ObjectId>, StoreError> {
        let found = tried!("read", self.inodes.get(inode))?;
        found.map(|bytes| object_of(bytes.value()).ok_or_else(|| damaged("an inode"))).transpose()
    }

    pub fn child(&self, parent: ObjectId, name: &Name) -> Result<Option<ObjectId>, StoreError> {
        let found = tried!("read", self.names.get(&name_key(parent, name.as_bytes())[..]))?;
        found.map(|bytes| object_of(bytes.value()).ok_or_else(|| damaged("a name"))).transpose()
    }

    /// Calls `each` for the entries of `parent`, in the order of their names.
    pub fn children(&self, parent: ObjectId, mut each: impl FnMut(Name, ObjectId)) -> Result<(), StoreError> {
        let first = object_key(parent);
        for pair in tried!("read", self.names.range(&first[..]..))? {
            let (key, value) = tried!("read", pair)?;
            let Some(name) = key.value().strip_prefix(&first[..]) else { break };
            let name = Name::new(name).map_err(|_| damaged("a name"))?;
            each(name, object_of(value.value()).ok_or_else(|| damaged("a name"))?);
        }
        Ok(())
    }

    /// How many names there are.
    pub fn names(&self) -> Result<u64, StoreError> {
        tried!("read", redb::ReadableTableMetadata::len(&self.names))
    }

    /// Since when the attic has a version.
    pub fn kept_since(&self, version: DataVersion) -> Result<Option<Time>, StoreError> {
        let found = tried!("read", self.kept.get(&object_key(ObjectId(version.0))[..]))?;
        found.map(|bytes| time_of(bytes.value()).ok_or_else(|| damaged("a kept file"))).transpose()
    }

    pub fn kept_bytes(&self, kept: &Kept) -> Result<u64, StoreError> {
        Ok(tried!("read", self.attic.get(&kept.key()[..]))?.map_or(0, |bytes| bytes.value()))
    }

    /// The `count` files that have been in the attic longest.
    pub fn oldest_kept(&self, count: usize) -> Result<Vec<(Kept, u64)>, StoreError> {
        let mut oldest = Vec::new();
        for pair in tried!("read", self.attic.iter())?.take(count) {
            let (key, bytes) = tried!("read", pair)?;
            oldest.push((Kept::from_key(key.value()).ok_or_else(|| damaged("a kept file"))?, bytes.value()));
        }
        Ok(oldest)
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError { operation: "read", cause: format!("{what} in it makes no sense") }
}

/// Big-endian, so that keys sort as ids do.
pub(super) fn object_key(object: ObjectId) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&object.0.replica.0.to_be_bytes());
    key[8..].copy_from_slice(&object.0.recno.0.to_be_bytes());
    key
}

pub(super) fn origin_of(key: &[u8]) -> Option<Origin> {
    let (replica, recno) = key.split_at_checked(8)?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some(Origin::new(ReplicaId(number(replica)?), Recno(number(recno)?)))
}

fn object_of(key: &[u8]) -> Option<ObjectId> {
    origin_of(key).map(ObjectId)
}

fn name_key(parent: ObjectId, name: &[u8]) -> Vec<u8> {
    [&object_key(parent)[..], name].concat()
}

pub(super) fn time_of(key: &[u8]) -> Option<Time> {
    let seconds = i64::from_be_bytes(key.get(..8)?.try_into().ok()?);
    let nanoseconds = u32::from_be_bytes(key.get(8..12)?.try_into().ok()?);
    Some(Time::new(seconds, nanoseconds))
}

/// Seconds and nanoseconds so that keys sort as times since 1970 do.
pub(super) fn time_key(time: Time) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&time.seconds.max(0).to_be_bytes());
    key[8..].copy_from_slice(&time.nanoseconds.to_be_bytes());
    key
}
