//! The commands, and the code that builds the proxy from its parts: the only module that uses all others.
//!
//! - [`config`] – turns settings into typed, validated values
//! - [`assemble`] – builds the proxy from its parts; [`routes`] – the table of endpoints; Host, Origin and CORS
//! - [`request_record`] – what is known of a request; [`access_log`] – a line for each;
//!   [`audit_log`] – the same, and security events; [`client_names`] – names for both; [`logs`] – both as they are open; [`monitoring`] – the port for metrics and health, [`health`]
//! - [`publish`] – sets up the servers, also anew at a reload; [`reload`] – on SIGHUP; [`rights`] – what they need of root's rights
//! - [`serve`] – the command that publishes servers; [`listen`] – its ports; [`housekeeping`] – its threads;
//!   [`warnings`] – its warnings about the configuration at the start; [`service_manager`] – what systemd is told
//! - [`control`] – the control socket, and the commands that ask a running proxy
//! - [`backup`] – copies the data directory, and puts it back
//! - [`check`] – looks at everything that serving needs
//! - [`doctor`] – looks at a public URL as each client does; [`echo`] – what it asks of this program
//! - [`migrate`] – translates the settings of sigbit/mcp-auth-proxy
//! - [`demo`], [`hash_password`], [`healthcheck`] – the other commands

mod access_log;
pub mod assemble;
mod audit_log;
pub mod backup;
pub mod check;
pub mod client_names;
pub mod config;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod echo;
pub mod hash_password;
mod health;
pub mod healthcheck;
mod housekeeping;
pub mod listen;
mod logs;
pub mod migrate;
mod monitoring;
mod publish;
mod reload;
pub mod request_record;
mod rights;
pub mod routes;
pub mod serve;
mod service_manager;
mod warnings;
