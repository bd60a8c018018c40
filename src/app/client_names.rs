//! The names that clients have chosen, for logs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bounded_map::BoundedMap;
use crate::core::Core;
use crate::identity::ClientId;
use crate::lock::Unpoisoned;
use crate::store::rows::Client;

/// Names of clients that are remembered, and for how long.
const MAX_NAMES: usize = 1_000;
const NAME_LIFETIME: Duration = Duration::from_secs(60);

/// Names of clients. Reads the store once a minute for each.
pub struct ClientNames {
    core: Arc<Core>,
    names: Mutex<BoundedMap<ClientId, (Instant, Arc<str>)>>,
}

impl ClientNames {
    /// Those of the clients in the store.
    pub fn new(core: Arc<Core>) -> ClientNames {
        ClientNames { core, names: Mutex::new(BoundedMap::new(MAX_NAMES)) }
    }

    /// The name of a client, which it has chosen itself.
    pub fn of(&self, client: &ClientId) -> Arc<str> {
        if let Some((_, name)) =
            self.names.lock().unpoisoned().get(client).filter(|(at, _)| at.elapsed() < NAME_LIFETIME)
        {
            return name.clone();
        }
        let row = self.core.state.get::<Client>(client.as_str()).ok().flatten();
        let name: Arc<str> = row.and_then(|row| row.name).unwrap_or_default().into();
        let mut names = self.names.lock().unpoisoned();
        *names.get_or_insert(client.clone(), (Instant::now(), name.clone()), &[]) = (Instant::now(), name.clone());
        name
    }
}
