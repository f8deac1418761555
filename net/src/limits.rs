//! Every bound on what a peer may send and what is kept of peers, with its reason.

use std::time::Duration;

/// Bytes of a frame after its length. A frame holds a batch of records, of which one alone may have
/// [`mezzo_core::limits::RECORD_BYTES`] in theory and is cut in pieces then, or a piece of a file.
pub const FRAME_BYTES: usize = (8 << 20) + FRAME_HEAD_BYTES;

/// What a frame of [`FRAME_BYTES`] may have beside 8 MiB of something.
pub const FRAME_HEAD_BYTES: usize = 64 << 10;

/// How long one frame may take, from its first byte to its last: the largest then needs 2 Mbit/s. An idle connection is not
/// limited by this.
pub const FRAME_TIME: Duration = Duration::from_secs(30);

/// Bytes of a frame for which room is made before they have come: what a peer can make this side allocate by a length alone.
pub const FRAME_AHEAD_BYTES: usize = 256 << 10;

/// How long the TLS handshake may take.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How long an enrolment may take after the handshake, from both sides.
pub const ENROLMENT_TIME: Duration = Duration::from_secs(10);

/// How long it is tried to reach one address of a server.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Bytes of a request to be enrolled, or to have a certificate renewed: a signing request of P-256 has some 300.
pub const REQUEST_BYTES: usize = 8 << 10;

/// Bytes of the answer to it: two certificates and an id mapping.
pub const ANSWER_BYTES: usize = 128 << 10;

/// Bytes of a certificate or signing request: ours have less than 1 KiB.
pub const CERTIFICATE_BYTES: usize = 4 << 10;

/// Bytes of a client's name: HOST_NAME_MAX.
pub const CLIENT_NAME_BYTES: usize = 64;

/// Bytes of a link: it is pasted into terminals and messages.
pub const LINK_BYTES: usize = 4 << 10;

/// Bytes of a host's name: that of DNS.
pub const HOST_BYTES: usize = 253;

/// Addresses of one server: by name and number, inside and outside.
pub const ADDRESSES: usize = 8;

/// Clients of one server, revoked ones too. The file that holds them is written whole at each change.
pub const CLIENTS: usize = 10_000;

/// Invitations that are remembered at once, used and expired ones too.
pub const INVITATIONS: usize = 1_000;

/// The longest time that an invitation can be good for.
pub const INVITATION_TIME: Duration = Duration::from_secs(366 * DAY);

/// How long a used or expired invitation is remembered beyond its end, so that who comes with it is told what is wrong.
pub const INVITATION_MEMORY: Duration = Duration::from_secs(30 * DAY);

/// Bytes of any file in a state directory. What would make one larger is refused.
pub const STATE_FILE_BYTES: usize = 64 << 20;

/// How long a client's certificate is valid: who is away for longer needs a new invitation. It is renewed when half is over.
pub const CLIENT_CERTIFICATE_TIME: Duration = Duration::from_secs(730 * DAY);

/// How long a server's certificate is valid. It is made at start and again when half is over, and never stored.
pub const SERVER_CERTIFICATE_TIME: Duration = Duration::from_secs(30 * DAY);

/// How long before it is made a certificate is valid already, for peers whose clocks are late.
pub const CLOCK_SLACK: Duration = Duration::from_secs(DAY);

const DAY: u64 = 24 * 60 * 60;

// An entry has less than 1 KiB besides its mapping, and few clients have long ones.
const _: () = assert!(CLIENTS * 1024 + INVITATIONS * (MAPPING_BYTES + 1024) < STATE_FILE_BYTES);
const _: () = assert!(2 * CERTIFICATE_BYTES + MAPPING_BYTES + 1024 < ANSWER_BYTES);
const _: () = assert!(CERTIFICATE_BYTES + CLIENT_NAME_BYTES + 1024 < REQUEST_BYTES);
const _: () = assert!(ANSWER_BYTES < FRAME_BYTES);
const _: () = assert!(ADDRESSES * (HOST_BYTES + 16) + 256 < LINK_BYTES);

/// Bytes of an id mapping's text: two tables of pairs with ten digits on each side.
pub const MAPPING_BYTES: usize = 64 + 2 * mezzo_core::limits::MAPPED_IDS * 23;
