//! What survives a crash, and what a failing disk does.

mod faults;
mod simulation;
