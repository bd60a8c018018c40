//! The network around the program: who the client behind reverse proxies is, how often an address may ask, how names
//! are resolved, and how a wait for one socket is ended by another.

pub mod buckets;
pub mod interrupt;
pub mod resolver;
pub mod trusted;
