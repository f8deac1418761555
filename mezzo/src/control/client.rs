//! The command's end.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::{Answer, LINE_BYTES, Request};

/// How long a daemon may take to answer: it may have much to make durable.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client(UnixStream);

impl Client {
    /// Connects to the daemon that listens at `socket`.
    pub fn connect(socket: &Path) -> io::Result<Client> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client(stream))
    }

    /// Waits for an answer for as long as it takes.
    pub fn patiently(self) -> io::Result<Client> {
        self.0.set_read_timeout(None)?;
        Ok(self)
    }

    /// Asks, and returns the answer with the descriptors that came beside it. A refusal is an error.
    pub fn ask(&mut self, request: &Request) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        io::Write::write_all(&mut self.0, &line)?;
        let (bytes, descriptors) = self.receive()?;
        match serde_json::from_slice(&bytes)? {
            Answer::Failed { message } => Err(io::Error::other(message)),
            answer => Ok((answer, descriptors)),
        }
    }

    fn receive(&mut self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let (mut line, mut descriptors) = (Vec::new(), Vec::new());
        while !line.ends_with(b"\n") {
            let mut buffer = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            if received.bytes == 0 || line.len() + received.bytes > LINE_BYTES {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon's answer was cut off"));
            }
            line.extend_from_slice(&buffer[..received.bytes]);
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(sent) = message {
                    descriptors.extend(sent);
                }
            }
        }
        Ok((line, descriptors))
    }
}
