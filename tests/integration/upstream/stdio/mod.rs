//! Servers over stdio.

mod modern;
mod processes;
mod sessions;
mod shared;
mod transport;
