//! The command line, the start and the end of the program, and its public surface.

mod access_log;
mod audit;
mod backup;
mod check;
mod command_line;
mod control;
mod doctor;
mod first_start;
mod limits;
mod monitoring;
mod reload;
mod routes;
mod servers_file;
mod shutdown;
