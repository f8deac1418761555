//! What is said at enrolment, and when a certificate is renewed: one request, one answer, as bytes.
//!
//! Both begin with a byte for the version and a byte for what it is. Then come fields, each with its length in 4 bytes, little
//! endian, before it:
//!
//! | message | byte | fields |
//! |---|---|---|
//! | enrol | 1 | fileset (16 bytes), secret (32), name (UTF-8), signing request (DER) |
//! | renew | 2 | signing request |
//! | admitted | 128 | client (8, little endian), certificate (DER), the authority's (DER), rights (`read`, `read-write`), id mapping |
//! | refused | 129 | reason (1) |

use mezzo_core::{FilesetId, IdMapping};

use super::link::Secret;
use super::{ClientId, Rights};
use crate::limits;

const VERSION: u8 = 1;

const ENROL: u8 = 1;
const RENEW: u8 = 2;
const ADMITTED: u8 = 128;
const REFUSED: u8 = 129;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// To be enrolled.
    Enrol { fileset: FilesetId, secret: Secret, name: String, signing_request: Vec<u8> },
    /// A new certificate, for the client that the connection is from.
    Renew { signing_request: Vec<u8> },
}

/// What the server says to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Here it is.
    Admitted(Admission),
    /// No.
    Refused(Refusal),
}

/// What an enrolled client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    pub client: ClientId,
    pub certificate: Vec<u8>,
    pub authority: Vec<u8>,
    pub rights: Rights,
    pub mapping: IdMapping,
}

/// Why a server gives no certificate. The number is what it is called between machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// It can't be read, or what it asks for is asked for in the wrong place.
    #[error("the request makes no sense to the server")]
    NotARequest = 1,
    /// No invitation has this secret.
    #[error("the invitation is not known: it was never made, or ended long ago")]
    NotInvited = 2,
    /// Too late.
    #[error("the invitation has expired")]
    Expired = 3,
    /// Somebody came with it before.
    #[error("the invitation was used already")]
    Used = 4,
    /// It is for another fileset.
    #[error("the invitation is for another fileset")]
    OtherFileset = 5,
    /// The client was revoked.
    #[error("the client was revoked")]
    Revoked = 6,
    /// The server has trouble of its own, which its log tells.
    #[error("the server can't take any client now")]
    Unable = 7,
}

/// Bytes are no message, or a longer one than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of enrolment: {0}")]
pub struct NotAMessage(pub &'static str);

impl Request {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Request::Enrol { fileset, secret, name, signing_request } => {
                message(ENROL, &[&fileset.0, secret.as_bytes(), name.as_bytes(), signing_request])
            }
            Request::Renew { signing_request } => message(RENEW, &[signing_request]),
        }
    }

    /// What the bytes say.
    pub fn from_bytes(bytes: &[u8]) -> Result<Request, NotAMessage> {
        if bytes.len() > limits::REQUEST_BYTES {
            return Err(NotAMessage("it is too long"));
        }
        let (kind, mut fields) = open(bytes)?;
        let request = match kind {
            ENROL => Request::Enrol {
                fileset: FilesetId(fields.exactly()?),
                secret: Secret::from_bytes(fields.exactly()?),
                name: fields.text(limits::CLIENT_NAME_BYTES)?,
                signing_request: fields.bytes(limits::CERTIFICATE_BYTES)?.to_vec(),
            },
            RENEW => Request::Renew { signing_request: fields.bytes(limits::CERTIFICATE_BYTES)?.to_vec() },
            _ => return Err(NotAMessage("it is no request")),
        };
        fields.end()?;
        Ok(request)
    }
}

impl Answer {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Answer::Admitted(Admission { client, certificate, authority, rights, mapping }) => {
                let [rights, mapping] = [rights.to_string(), mapping.to_string()];
                let client = client.0.to_le_bytes();
                message(ADMITTED, &[&client, certificate, authority, rights.as_bytes(), mapping.as_bytes()])
            }
            Answer::Refused(refusal) => message(REFUSED, &[&[*refusal as u8]]),
        }
    }

    /// What the bytes say.
    pub fn from_bytes(bytes: &[u8]) -> Result<Answer, NotAMessage> {
        if bytes.len() > limits::ANSWER_BYTES {
            return Err(NotAMessage("it is too long"));
        }
        let (kind, mut fields) = open(bytes)?;
        let answer = match kind {
            ADMITTED => Answer::Admitted(Admission {
                client: fields.client()?,
                certificate: fields.bytes(limits::CERTIFICATE_BYTES)?.to_vec(),
                authority: fields.bytes(limits::CERTIFICATE_BYTES)?.to_vec(),
                rights: fields.rights()?,
                mapping: fields
                    .text(limits::MAPPING_BYTES)?
                    .parse()
                    .map_err(|_| NotAMessage("the id mapping is none"))?,
            }),
            REFUSED => Answer::Refused(fields.refusal()?),
            _ => return Err(NotAMessage("it is no answer")),
        };
        fields.end()?;
        Ok(answer)
    }
}

impl Refusal {
    const ALL: [Refusal; 7] = [
        Refusal::NotARequest,
        Refusal::NotInvited,
        Refusal::Expired,
        Refusal::Used,
        Refusal::OtherFileset,
        Refusal::Revoked,
        Refusal::Unable,
    ];
}

fn message(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind];
    for field in fields {
        bytes.extend((field.len() as u32).to_le_bytes());
        bytes.extend(*field);
    }
    bytes
}

fn open(bytes: &[u8]) -> Result<(u8, Fields<'_>), NotAMessage> {
    match bytes {
        [VERSION, kind, fields @ ..] => Ok((*kind, Fields(fields))),
        [_, _, ..] => Err(NotAMessage("it has a version that is not known")),
        _ => Err(NotAMessage("it is too short")),
    }
}

/// What is left of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, limit: usize) -> Result<&'a [u8], NotAMessage> {
        let (length, rest) = self.0.split_first_chunk().ok_or(NotAMessage("it is too short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > limit {
            return Err(NotAMessage("a field is too long"));
        }
        let (field, rest) = rest.split_at_checked(length).ok_or(NotAMessage("it is too short"))?;
        self.0 = rest;
        Ok(field)
    }

    fn exactly<const N: usize>(&mut self) -> Result<[u8; N], NotAMessage> {
        self.bytes(N)?.try_into().map_err(|_| NotAMessage("a field is too short"))
    }

    fn text(&mut self, limit: usize) -> Result<String, NotAMessage> {
        let text = std::str::from_utf8(self.bytes(limit)?);
        Ok(text.map_err(|_| NotAMessage("a text is not UTF-8"))?.to_owned())
    }

    fn client(&mut self) -> Result<ClientId, NotAMessage> {
        match u64::from_le_bytes(self.exactly()?) {
            0 => Err(NotAMessage("a client's number is never 0")),
            number => Ok(ClientId(number)),
        }
    }

    fn rights(&mut self) -> Result<Rights, NotAMessage> {
        let text = self.text(16)?;
        let rights = [Rights::Read, Rights::ReadWrite].into_iter().find(|rights| rights.to_string() == text);
        rights.ok_or(NotAMessage("the rights are none"))
    }

    fn refusal(&mut self) -> Result<Refusal, NotAMessage> {
        let [number] = self.exactly()?;
        let refusal = Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == number);
        refusal.ok_or(NotAMessage("the reason is not known"))
    }

    fn end(&self) -> Result<(), NotAMessage> {
        if self.0.is_empty() { Ok(()) } else { Err(NotAMessage("more follows than belongs to it")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> [Request; 2] {
        let enrol = Request::Enrol {
            fileset: FilesetId([1; 16]),
            secret: Secret::from_bytes([2; 32]),
            name: "höst".to_owned(),
            signing_request: vec![3; limits::CERTIFICATE_BYTES],
        };
        [enrol, Request::Renew { signing_request: Vec::new() }]
    }

    fn answers() -> Vec<Answer> {
        let admission = Admission {
            client: ClientId(5),
            certificate: vec![1; 700],
            authority: vec![2; 600],
            rights: Rights::ReadWrite,
            mapping: "table:u1=2".parse().unwrap(),
        };
        let refused = Refusal::ALL.map(Answer::Refused);
        [Answer::Admitted(admission)].into_iter().chain(refused).collect()
    }

    #[test]
    fn messages_read_back_and_nothing_less_or_more_does() {
        for request in requests() {
            let mut bytes = request.to_bytes();
            assert_eq!(Request::from_bytes(&bytes), Ok(request));
            assert!((0..bytes.len()).all(|length| Request::from_bytes(&bytes[..length]).is_err()));
            bytes.push(0);
            assert!(Request::from_bytes(&bytes).is_err());
        }
        for answer in answers() {
            let mut bytes = answer.to_bytes();
            assert_eq!(Answer::from_bytes(&bytes), Ok(answer));
            assert!((0..bytes.len()).all(|length| Answer::from_bytes(&bytes[..length]).is_err()));
            bytes.push(0);
            assert!(Answer::from_bytes(&bytes).is_err());
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut long = requests()[0].clone();
        let Request::Enrol { signing_request, .. } = &mut long else { unreachable!("the first is one") };
        signing_request.push(0);
        assert_eq!(Request::from_bytes(&long.to_bytes()), Err(NotAMessage("a field is too long")));
        let long = vec![1; limits::REQUEST_BYTES + 1];
        assert_eq!(Request::from_bytes(&long), Err(NotAMessage("it is too long")));
        assert_eq!(Answer::from_bytes(&[1; limits::ANSWER_BYTES + 1]), Err(NotAMessage("it is too long")));
        let huge = [&[VERSION, RENEW], &u32::MAX.to_le_bytes()[..], &[0; 64]].concat();
        assert_eq!(Request::from_bytes(&huge), Err(NotAMessage("a field is too long")));
    }
}
