//! Tracks open event streams, so that they can be cut when their user may not enter any more. This is needed because a
//! stream can outlive the token that it was opened with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::clock::Timestamp;
use crate::http::{Payload, Response};
use crate::identity::{GrantId, Principal, UserId};
use crate::lock::Unpoisoned;
use crate::net::client_connection::ClientConnection;
use crate::net::client_handle::ClientHandle;

/// The open streams.
#[derive(Clone, Default)]
pub struct OpenStreams(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    opened: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    grant: GrantId,
    user: UserId,
    /// The name of the server that the stream comes from.
    server: String,
    /// It answers a GET, so it ends only when somebody ends it. Others answer a request.
    is_endless: bool,
    /// The client's connection.
    client: Weak<ClientConnection>,
    /// When the user has to be checked again; at first, when the token that opened the stream expires.
    due: Timestamp,
}

impl OpenStreams {
    /// Registers an event stream that is about to be sent to `client`. Dropping the response body removes it.
    pub fn attach(
        &self,
        mut response: Response,
        server: &str,
        is_endless: bool,
        principal: &Principal,
        client: &ClientHandle,
    ) -> Response {
        if !matches!(response.body, Payload::Stream { .. }) {
            return response;
        }
        let mut state = self.state();
        state.opened += 1;
        let number = state.opened;
        let open = Open {
            grant: principal.grant.clone(),
            user: principal.user.clone(),
            server: server.to_string(),
            is_endless,
            client: Arc::downgrade(client.connection()),
            due: principal.expires_at,
        };
        state.open.insert(number, open);
        drop(state);
        response.body = response.body.with_guard(Entry { number, streams: self.clone() });
        response
    }

    /// The grants with open streams whose user has to be checked again at `now`.
    pub fn due(&self, now: Timestamp) -> Vec<GrantId> {
        let mut grants: Vec<GrantId> =
            self.state().open.values().filter(|o| o.due <= now).map(|o| o.grant.clone()).collect();
        grants.sort();
        grants.dedup();
        grants
    }

    /// All grants that have open streams.
    pub fn grants(&self) -> Vec<GrantId> {
        self.due(Timestamp::MAX)
    }

    /// How many streams are open.
    pub fn count(&self) -> usize {
        self.state().open.len()
    }

    /// The number of the newest stream.
    pub fn newest(&self) -> u64 {
        self.state().opened
    }

    /// Cuts those of the server's streams up to this number that end only when somebody ends them. Returns whether others
    /// are still open, which answer a request.
    pub fn cut_endless(&self, server: &str, newest: u64) -> bool {
        let state = self.state();
        let of_server = state.open.iter().filter(|(number, open)| **number <= newest && open.server == server);
        let (endless, others): (Vec<_>, Vec<_>) = of_server.map(|(_, open)| open).partition(|open| open.is_endless);
        let (clients, has_others) =
            (endless.iter().filter_map(|o| o.client.upgrade()).collect::<Vec<_>>(), !others.is_empty());
        drop(state);
        clients.iter().for_each(|client| client.cut());
        has_others
    }

    /// The servers that the grant has open streams of.
    pub fn servers(&self, grant: &GrantId) -> Vec<String> {
        let state = self.state();
        let mut servers: Vec<_> = state.open.values().filter(|o| o.grant == *grant).map(|o| o.server.clone()).collect();
        servers.sort();
        servers.dedup();
        servers
    }

    /// The user of the grant's streams.
    pub fn user(&self, grant: &GrantId) -> Option<UserId> {
        self.state().open.values().find(|o| o.grant == *grant).map(|o| o.user.clone())
    }

    /// Sets when the user of the grant's streams has to be checked again.
    pub fn recheck_at(&self, grant: &GrantId, until: Timestamp) {
        self.state().open.values_mut().filter(|o| o.grant == *grant).for_each(|o| o.due = until);
    }

    /// Cuts the client connections of the grant's streams, and returns their number.
    pub fn cut(&self, grant: &GrantId) -> usize {
        self.cut_if(|of, _| of == grant)
    }

    /// Cuts the client connections of the streams whose grant and server fit, and returns their number.
    pub fn cut_if(&self, is_concerned: impl Fn(&GrantId, &str) -> bool) -> usize {
        let state = self.state();
        let concerned: Vec<_> = state
            .open
            .values()
            .filter(|o| is_concerned(&o.grant, &o.server))
            .filter_map(|o| o.client.upgrade())
            .collect();
        drop(state);
        for client in &concerned {
            // A thread that works for this client sees a closed connection.
            client.cut();
        }
        concerned.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unpoisoned()
    }
}

/// Removes a stream from the table when it ends.
struct Entry {
    number: u64,
    streams: OpenStreams,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.streams.state().open.remove(&self.number);
    }
}
