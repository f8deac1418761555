//! What can be wrong with bytes that should be a record.

use crate::name::BadName;

use super::check::Refused;

/// Bytes that are not one whole, undamaged frame. What they would mean is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a head has.
    #[error("{0} bytes are too few for a record")]
    Short(usize),
    /// A frame begins otherwise.
    #[error("no record begins here")]
    Magic,
    /// The layout of the frame is not the one that is known.
    #[error("the record's layout is version {0}, and only version 2 is known")]
    Version(u8),
    /// The head is damaged.
    #[error("the record's head does not match its checksum")]
    HeadChecksum,
    /// The head's length can't be one: not a multiple of 8, too small or beyond the limit.
    #[error("a record can't have {0} bytes")]
    Length(u32),
    /// The frame is longer than what is there of it.
    #[error("the record has {length} bytes, of which {found} are there")]
    Incomplete {
        /// Bytes of the frame.
        length: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// There are bytes behind the frame.
    #[error("{0} bytes follow the record")]
    Trailing(usize),
    /// The frame is damaged.
    #[error("the record does not match its checksum")]
    Checksum,
    /// The length at the end is not the one in the head.
    #[error("the record's two lengths differ: {head} and {tail}")]
    TwoLengths {
        /// In the head.
        head: u32,
        /// At the end.
        tail: u32,
    },
    /// Padding is longer than 7 bytes or not zero.
    #[error("the record's padding is not up to 7 zeros")]
    Padding,
}

/// Bytes that can't be read as a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are no whole frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame has flags that a later version gave it.
    #[error("the record has flags {0:#04x}, which a later version of mezzo defined")]
    Flags(u8),
    /// A kind of change that is not known, or not at this place.
    #[error("kind {0} of change is not known here")]
    Kind(u8),
    /// A field that its kind needs is missing.
    #[error("field {0:#04x} is missing")]
    Missing(u8),
    /// A field that has to be understood is not known, or does not belong to its kind.
    #[error("field {0:#04x} is not known here, and can't be left out")]
    Unknown(u8),
    /// Fields don't stand in the order of their tags, or one stands twice.
    #[error("field {0:#04x} is out of order")]
    Order(u8),
    /// A field's value can't be read.
    #[error("field {tag:#04x}: {fault}")]
    Field {
        /// Which.
        tag: u8,
        /// Why.
        fault: Fault,
    },
    /// What they say breaks a rule that every record keeps.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// What is wrong with a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It ends too early.
    #[error("the value ends too early")]
    Short,
    /// Bytes are left over.
    #[error("{0} bytes of the value are left over")]
    Trailing(usize),
    /// A number of variable length is longer than it needs to be or than 64 bits.
    #[error("a number is not in its shortest form or beyond 64 bits")]
    Varint,
    /// A number is larger than its meaning allows.
    #[error("a number is too large: {0}")]
    Large(u64),
    /// Bits, a form or a code that this version does not define.
    #[error("{what} {found:#x} is not defined")]
    Undefined {
        /// What it should have been.
        what: &'static str,
        /// What was found.
        found: u64,
    },
    /// More items than allowed.
    #[error("more than {limit} {what}")]
    Many {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// It is no name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// It is not UTF-8.
    #[error("the text is not UTF-8")]
    Text,
    /// A path in full and a path by directory.
    #[error("a path is given twice")]
    TwoPaths,
}
