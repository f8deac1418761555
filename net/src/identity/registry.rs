//! Who was invited and who came: a value, what may happen to it, and its text on disk.
//!
//! Nothing here does I/O or reads a clock; `server.rs` makes each change durable before it takes effect.

use std::collections::BTreeMap;
use std::fmt::Write;

use mezzo_core::{FilesetId, IdMapping};
use serde::{Deserialize, Serialize};

use super::authority::ClientName;
use super::enrolment::Refusal;
use super::error::{IdentityError, NotAdmitted};
use super::{ClientId, Peer, Rights};
use crate::limits;

/// The version of the file that this program writes.
const FORMAT: u32 = 1;

const HEADING: &str = "# Who was invited to this server and who came. Written by mezzo as a whole; use mezzo invite and mezzo clients.\n\n";

/// What somebody was invited to. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The fileset.
    pub fileset: FilesetId,
    /// What they may do with it.
    pub rights: Rights,
    /// How their users and groups are the server's.
    pub mapping: IdMapping,
    /// When it was made.
    pub made: u64,
    /// The first second in which it is good no more.
    pub expires: u64,
    /// Who came with it.
    pub used_by: Option<ClientId>,
}

/// Somebody who came with an invitation. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its number.
    pub id: ClientId,
    /// What its machine was called when it came: 1 to 64 letters, digits, dots, dashes and underscores.
    pub name: String,
    /// The fileset that it may use.
    pub fileset: FilesetId,
    /// What it may do with it.
    pub rights: Rights,
    /// How its users and groups are the server's.
    pub mapping: IdMapping,
    /// When its invitation was made.
    pub invited: u64,
    /// When it came.
    pub enrolled: u64,
    /// When it was last connected, as far as that was noted.
    pub seen: Option<u64>,
    /// When it was revoked.
    pub revoked: Option<u64>,
    /// SHA-256 of the public key that it came with.
    key: [u8; 32],
}

/// All invitations and clients of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Registry {
    /// By the hash of their secrets.
    invitations: BTreeMap<[u8; 32], Invitation>,
    clients: BTreeMap<ClientId, Client>,
}

/// Who comes with an invitation.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub fileset: FilesetId,
    pub secret_hash: [u8; 32],
    pub key_hash: [u8; 32],
    pub name: String,
    /// The number that it gets if it is new: free, and not 0.
    pub id: ClientId,
}

impl Registry {
    /// Adds an invitation. Those that ended long ago are forgotten.
    pub fn invite(
        &mut self,
        secret_hash: [u8; 32],
        invitation: Invitation,
        now: u64,
    ) -> Result<(), IdentityError> {
        let memory = limits::INVITATION_MEMORY.as_secs();
        self.invitations.retain(|_, invitation| now < invitation.expires.saturating_add(memory));
        if self.invitations.len() >= limits::INVITATIONS {
            return Err(IdentityError::Full { what: "invitations", limit: limits::INVITATIONS });
        }
        self.invitations.insert(secret_hash, invitation);
        Ok(())
    }

    /// Lets somebody in who was invited, and marks the invitation as used. Who came already and comes again with the same key
    /// did not get the answer: it is the same client, as long as the invitation is good.
    pub fn enrol(&mut self, arrival: Arrival, now: u64) -> Result<ClientId, Refusal> {
        let invitation = self.invitations.get_mut(&arrival.secret_hash).ok_or(Refusal::NotInvited)?;
        if invitation.fileset != arrival.fileset {
            return Err(Refusal::OtherFileset);
        }
        if now >= invitation.expires {
            return Err(Refusal::Expired);
        }
        if let Some(id) = invitation.used_by {
            let same = self.clients.get(&id).filter(|client| client.key == arrival.key_hash);
            return match same.ok_or(Refusal::Used)?.revoked {
                Some(_) => Err(Refusal::Revoked),
                None => Ok(id),
            };
        }
        if self.clients.len() >= limits::CLIENTS || self.clients.contains_key(&arrival.id) {
            return Err(Refusal::Unable);
        }
        invitation.used_by = Some(arrival.id);
        let client = Client {
            id: arrival.id,
            name: clean_name(&arrival.name),
            fileset: invitation.fileset,
            rights: invitation.rights,
            mapping: invitation.mapping.clone(),
            invited: invitation.made,
            enrolled: now,
            seen: None,
            revoked: None,
            key: arrival.key_hash,
        };
        self.clients.insert(client.id, client);
        Ok(arrival.id)
    }

    /// The client that may have a new certificate on a connection from `peer`, for the key with this hash.
    pub fn renew(&self, peer: Peer, key_hash: &[u8; 32]) -> Result<ClientId, Refusal> {
        let Peer::Client(id) = peer else { return Err(Refusal::NotARequest) };
        let client = self.client(id).ok_or(Refusal::NotInvited)?;
        if client.revoked.is_some() {
            return Err(Refusal::Revoked);
        }
        if client.key == *key_hash { Ok(id) } else { Err(Refusal::NotARequest) }
    }

    /// Revokes a client, whose first revocation counts; whether this was it.
    pub fn revoke(&mut self, id: ClientId, now: u64) -> Result<bool, IdentityError> {
        let client = self.clients.get_mut(&id).ok_or(IdentityError::NoClient(id))?;
        let first = client.revoked.is_none();
        client.revoked.get_or_insert(now);
        Ok(first)
    }

    /// Notes that a client was connected; whether that is news.
    pub fn see(&mut self, id: ClientId, now: u64) -> bool {
        self.clients.get_mut(&id).is_some_and(|client| client.seen.replace(now) != Some(now))
    }

    /// The client, if it may use the fileset.
    pub fn admit(&self, peer: Peer, fileset: FilesetId) -> Result<&Client, NotAdmitted> {
        let Peer::Client(id) = peer else { return Err(NotAdmitted::Unknown) };
        let client = self.client(id).ok_or(NotAdmitted::NoClient(id))?;
        if client.revoked.is_some() {
            return Err(NotAdmitted::Revoked(id));
        }
        if client.fileset != fileset {
            return Err(NotAdmitted::OtherFileset { client: id, invited: client.fileset, asked: fileset });
        }
        Ok(client)
    }

    /// The client whose certificate has this name and the public key with this hash. Both must be as they were at
    /// enrolment: the authority's signature alone makes nobody a client.
    pub fn holder(&self, name: ClientName, key_hash: &[u8; 32]) -> Option<&Client> {
        self.client(name.client).filter(|client| client.fileset == name.fileset && client.key == *key_hash)
    }

    /// The client with this number.
    pub fn client(&self, id: ClientId) -> Option<&Client> {
        self.clients.get(&id)
    }

    /// All clients, by number.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.values()
    }

    /// All invitations that are remembered.
    pub fn invitations(&self) -> impl Iterator<Item = &Invitation> {
        self.invitations.values()
    }

    /// Whether nobody was ever invited.
    pub fn is_empty(&self) -> bool {
        self.invitations.is_empty() && self.clients.is_empty()
    }

    /// Takes over when clients were seen that `other` has seen later.
    pub fn take_seen(&mut self, other: &Registry) {
        for (id, client) in &mut self.clients {
            client.seen = client.seen.max(other.client(*id).and_then(|client| client.seen));
        }
    }

    /// Its text on disk.
    pub fn to_text(&self) -> String {
        let file = File {
            format: FORMAT,
            invitation: self.invitations.iter().map(|(hash, it)| InvitationEntry::of(hash, it)).collect(),
            client: self.clients().map(ClientEntry::of).collect(),
        };
        let text = toml::to_string(&file).expect("numbers and short texts can be written as TOML");
        format!("{HEADING}{text}")
    }

    /// Reads the text on disk; the error says what is wrong with it.
    pub fn from_text(text: &str) -> Result<Registry, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.format != FORMAT {
            return Err(format!("format is {}, and this program knows {FORMAT} only", file.format));
        }
        if file.client.len() > limits::CLIENTS || file.invitation.len() > limits::INVITATIONS {
            return Err("it has more entries than there can be".to_owned());
        }
        let mut registry = Registry::default();
        for entry in file.client {
            let client =
                entry.client().ok_or_else(|| format!("the entry of client {:?} is wrong", entry.id))?;
            if registry.clients.insert(client.id, client).is_some() {
                return Err(format!("client {} is there twice", entry.id));
            }
        }
        for entry in file.invitation {
            let (hash, invitation) = entry.invitation().ok_or("the entry of an invitation is wrong")?;
            if registry.invitations.insert(hash, invitation).is_some() {
                return Err("an invitation is there twice".to_owned());
            }
        }
        Ok(registry)
    }
}

/// A name as it is kept and shown: other characters become dashes, what is too long is cut off.
pub(super) fn clean_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    let clean: String = name.chars().take(limits::CLIENT_NAME_BYTES).map(plain).collect();
    if clean.is_empty() { "unnamed".to_owned() } else { clean }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    #[serde(default)]
    invitation: Vec<InvitationEntry>,
    #[serde(default)]
    client: Vec<ClientEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InvitationEntry {
    fileset: String,
    rights: Rights,
    mapping: String,
    made: u64,
    expires: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_by: Option<String>,
    // Last, as the key's below: an entry that was cut off is none.
    secret_sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientEntry {
    id: String,
    name: String,
    fileset: String,
    rights: Rights,
    mapping: String,
    invited: u64,
    enrolled: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<u64>,
    key_sha256: String,
}

impl InvitationEntry {
    fn of(hash: &[u8; 32], invitation: &Invitation) -> InvitationEntry {
        InvitationEntry {
            fileset: invitation.fileset.to_string(),
            rights: invitation.rights,
            mapping: invitation.mapping.to_string(),
            made: invitation.made,
            expires: invitation.expires,
            used_by: invitation.used_by.map(|id| id.to_string()),
            secret_sha256: hex(hash),
        }
    }

    fn invitation(&self) -> Option<([u8; 32], Invitation)> {
        let invitation = Invitation {
            fileset: self.fileset.parse().ok()?,
            rights: self.rights,
            mapping: self.mapping.parse().ok()?,
            made: self.made,
            expires: self.expires,
            used_by: self.used_by.as_deref().map(str::parse).transpose().ok()?,
        };
        Some((unhex(&self.secret_sha256)?, invitation))
    }
}

impl ClientEntry {
    fn of(client: &Client) -> ClientEntry {
        ClientEntry {
            id: client.id.to_string(),
            name: client.name.clone(),
            fileset: client.fileset.to_string(),
            rights: client.rights,
            mapping: client.mapping.to_string(),
            invited: client.invited,
            enrolled: client.enrolled,
            seen: client.seen,
            revoked: client.revoked,
            key_sha256: hex(&client.key),
        }
    }

    fn client(&self) -> Option<Client> {
        if clean_name(&self.name) != self.name {
            return None;
        }
        Some(Client {
            id: self.id.parse().ok()?,
            name: self.name.clone(),
            fileset: self.fileset.parse().ok()?,
            rights: self.rights,
            mapping: self.mapping.parse().ok()?,
            invited: self.invited,
            enrolled: self.enrolled,
            seen: self.seen,
            revoked: self.revoked,
            key: unhex(&self.key_sha256)?,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILESET: FilesetId = FilesetId([7; 16]);

    fn invited() -> Registry {
        let mut registry = Registry::default();
        let invitation = Invitation {
            fileset: FILESET,
            rights: Rights::Read,
            mapping: "table:u1=2,g3=4".parse().unwrap(),
            made: 100,
            expires: 200,
            used_by: None,
        };
        registry.invite([1; 32], invitation, 100).unwrap();
        registry
    }

    fn arrival(secret: u8, key: u8, id: u64) -> Arrival {
        let [secret_hash, key_hash] = [[secret; 32], [key; 32]];
        Arrival { fileset: FILESET, secret_hash, key_hash, name: "host".to_owned(), id: ClientId(id) }
    }

    #[test]
    fn an_invitation_is_good_once_for_a_time() {
        let other = Arrival { fileset: FilesetId([8; 16]), ..arrival(1, 1, 5) };
        let mut registry = invited();
        for (arrival, now, answer) in [
            (arrival(2, 1, 5), 150, Err(Refusal::NotInvited)),
            (other, 150, Err(Refusal::OtherFileset)),
            (arrival(1, 1, 5), 200, Err(Refusal::Expired)),
            (arrival(1, 1, 5), 199, Ok(ClientId(5))),
            (arrival(1, 2, 6), 199, Err(Refusal::Used)),
            (arrival(1, 1, 6), 199, Ok(ClientId(5))),
            (arrival(1, 1, 6), 200, Err(Refusal::Expired)),
        ] {
            assert_eq!(registry.enrol(arrival.clone(), now), answer, "{arrival:?} at {now}");
        }
        assert_eq!(registry.clients().count(), 1);
        assert!(registry.revoke(ClientId(5), 160).unwrap());
        assert!(!registry.revoke(ClientId(5), 170).unwrap());
        assert_eq!(registry.client(ClientId(5)).unwrap().revoked, Some(160));
        assert_eq!(registry.enrol(arrival(1, 1, 6), 199), Err(Refusal::Revoked));
    }

    #[test]
    fn a_registry_reads_back_what_it_writes() {
        let mut registry = invited();
        assert_eq!(Registry::from_text(&registry.to_text()).unwrap(), registry);
        registry.enrol(arrival(1, 1, 5), 150).unwrap();
        registry.see(ClientId(5), 160);
        registry.revoke(ClientId(5), 170).unwrap();
        let text = registry.to_text();
        assert_eq!(Registry::from_text(&text).unwrap(), registry);
        for (what, with) in [
            ("format = 1", "format = 2"),
            ("0000000000000005", "0000000000000000"),
            ("\"host\"", "\"ho st\""),
            ("\"read\"", "\"all\""),
            ("table:u1", "table:w1"),
            ("enrolled = 150", "enrolled = -1"),
            ("invited", "uninvited"),
            ("key_sha256 = \"01", "key_sha256 = \"é"),
        ] {
            assert!(text.contains(what), "{what}");
            assert!(Registry::from_text(&text.replace(what, with)).is_err(), "{what} -> {with}");
        }
    }

    #[test]
    fn names_are_cleaned() {
        for (name, clean) in [
            ("laptop-7.example", "laptop-7.example"),
            ("", "unnamed"),
            ("\x1b[2J\n\"", "--2J--"),
            ("größe", "gr--e"),
            (&"x".repeat(100), &*"x".repeat(64)),
        ] {
            assert_eq!(clean_name(name), clean);
        }
    }

    #[test]
    fn invitations_are_forgotten_at_last_and_limited() {
        let mut registry = invited();
        let invitation = registry.invitations().next().unwrap().clone();
        for number in 1..limits::INVITATIONS {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            registry.invite(hash, invitation.clone(), 200).unwrap();
        }
        assert!(matches!(registry.invite([9; 32], invitation.clone(), 200), Err(IdentityError::Full { .. })));
        let later = 200 + limits::INVITATION_MEMORY.as_secs();
        registry.invite([9; 32], invitation, later).unwrap();
        assert_eq!(registry.invitations().count(), 1);
    }
}
