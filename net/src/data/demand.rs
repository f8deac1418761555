//! A server as the place where data is that is not here.

use std::sync::Weak;

use mezzo_core::{DataVersion, ObjectId};
use mezzo_replica::demand::{FetchError, Upstream, Wanted};
use mezzo_replica::receive::Sought;

use super::{Fetches, NotFetched};

/// What a client knows of its server.
pub trait Acknowledges: Send + Sync {
    /// Whether the server has the version, and keeps it as long as it is any file's.
    fn has(&self, version: DataVersion) -> bool;

    /// The server's address, for people.
    fn address(&self) -> String;
}

/// Data that a server has.
pub struct FromServer<A> {
    fetches: std::sync::Arc<Fetches>,
    server: Weak<A>,
}

impl<A: Acknowledges> FromServer<A> {
    /// What is asked goes over `fetches`.
    pub fn new(fetches: std::sync::Arc<Fetches>, server: Weak<A>) -> FromServer<A> {
        FromServer { fetches, server }
    }
}

impl<A: Acknowledges> Upstream for FromServer<A> {
    fn fetch(&self, wanted: &Wanted<'_>) -> Result<(), FetchError> {
        let Wanted { object, version, size, to, is_partial, stop, .. } = *wanted;
        let sought = Sought { object, version, size, to, is_partial, older: None };
        let fetched = self.fetches.fetch(&sought, None, &|| !stop.is_stopped());
        fetched.map(drop).map_err(|error| match error {
            NotFetched::Offline => FetchError::Offline,
            NotFetched::Gone(why) => FetchError::Superseded(why),
            NotFetched::Passing(why) | NotFetched::Wrong(why) => FetchError::Unreachable(why),
            NotFetched::TooSlow => FetchError::Unreachable(NotFetched::TooSlow.to_string()),
            NotFetched::Stopped => FetchError::Stopped,
            NotFetched::Write(error) => FetchError::from(error),
        })
    }

    fn is_safe_to_evict(&self, _: ObjectId, version: DataVersion) -> bool {
        self.server.upgrade().is_some_and(|server| server.has(version))
    }

    fn describe(&self) -> String {
        self.server.upgrade().map(|server| server.address()).unwrap_or_default()
    }
}
