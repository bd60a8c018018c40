//! The interface of a row store, so that there can be other implementations.

use std::fmt;

use crate::clock::Timestamp;

/// Version of what is stored. It is counted up when an earlier version could not read it any more, or would misread it.
pub const FORMAT: u64 = 1;

/// The tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Client registrations.
    Clients,
    /// Grants, pending and redeemed.
    Grants,
    /// Remembered consents.
    Consents,
    /// Browser sessions.
    Sessions,
    /// Grants whose access tokens must be refused although they have not expired.
    Revocations,
    /// Access tokens that must be refused because others replaced them.
    Superseded,
    /// MCP sessions with stdio servers.
    McpSessions,
    /// Users who have signed in at a provider.
    People,
    /// Passwords that are or were configured.
    Passwords,
    /// Keys of scripts that know no OAuth.
    ApiKeys,
    /// Assertions of clients that were used.
    Assertions,
    /// When grants and API keys were last used.
    Uses,
}

impl Table {
    /// All tables.
    pub const ALL: [Table; 12] = [
        Table::Clients,
        Table::Grants,
        Table::Consents,
        Table::Sessions,
        Table::Revocations,
        Table::Superseded,
        Table::McpSessions,
        Table::People,
        Table::Passwords,
        Table::ApiKeys,
        Table::Assertions,
        Table::Uses,
    ];

    /// Its name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Table::Clients => "clients",
            Table::Grants => "grants",
            Table::Consents => "consents",
            Table::Sessions => "sessions",
            Table::Revocations => "revocations",
            Table::Superseded => "superseded",
            Table::McpSessions => "mcp_sessions",
            Table::People => "people",
            Table::Passwords => "passwords",
            Table::ApiKeys => "api_keys",
            Table::Assertions => "assertions",
            Table::Uses => "uses",
        }
    }
}

/// A stored value.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// From this time on the row counts as absent; it is deleted later.
    pub expires_at: Timestamp,
    /// JSON.
    pub value: Vec<u8>,
}

/// The store can't be read or written just now; nothing was changed.
#[derive(Clone, Debug)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreError {}

/// Reads and writes within one transaction.
pub trait Transaction {
    /// The row as this transaction sees it.
    fn get(&mut self, table: Table, key: &str) -> Result<Option<Row>, StoreError>;
    /// Writes a row.
    fn put(&mut self, table: Table, key: &str, row: Row);
    /// Removes a row.
    fn delete(&mut self, table: Table, key: &str);
}

/// The body of a transaction. If it returns an error, none of its changes are kept.
pub type Job = Box<dyn FnOnce(&mut dyn Transaction) -> Result<(), StoreError> + Send>;

/// A store of rows.
pub trait Store: Send + Sync {
    /// One row.
    fn get(&self, table: Table, key: &str) -> Result<Option<Row>, StoreError>;

    /// Runs `job`, isolated from all other transactions. When this returns `Ok`, its changes survive a crash.
    fn transact(&self, job: Job) -> Result<(), StoreError>;

    /// How many rows a table has, expired ones included.
    fn count(&self, table: Table) -> Result<u64, StoreError>;

    /// Calls `visit` with every row of all tables, as they were at one moment, for as long as it returns true.
    fn snapshot(&self, visit: &mut dyn FnMut(Table, &str, Row) -> bool) -> Result<(), StoreError>;

    /// Calls `visit` with every row of a consistent snapshot of the table.
    fn scan(&self, table: Table, visit: &mut dyn FnMut(&str, Row)) -> Result<(), StoreError>;
}
