//! Warnings in the log, at the start, about likely mistakes in the configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::config::Config;
use super::config::servers::Servers;
use super::config::tls;
use super::listen::Ports;
use crate::flags;
use crate::login::password::Password;

/// The first argument of `command` that is a directory containing the data directory `data`.
fn published_data(command: &[OsString], data: &Path) -> Option<String> {
    let data = data.canonicalize().ok()?;
    let holds = |word: &OsString| {
        let path = Path::new(word).canonicalize().ok()?;
        (path.is_dir() && data.starts_with(path)).then(|| word.to_string_lossy().into_owned())
    };
    command.iter().skip(1).find_map(holds)
}

/// The names of stdio servers that run as the same system user, if one of them has variables of its own.
fn sharing_a_user(servers: &Servers) -> Vec<Vec<String>> {
    let mut by_user: BTreeMap<Option<u32>, (Vec<String>, bool)> = BTreeMap::new();
    for stdio in servers.stdio() {
        let (names, has_variables) = by_user.entry(stdio.user.as_ref().map(|user| user.uid)).or_default();
        names.push(stdio.server.clone());
        *has_variables |= !stdio.env.is_empty();
    }
    let shared = by_user.into_values().filter(|(names, has_variables)| names.len() > 1 && *has_variables);
    shared.map(|(names, _)| names).collect()
}

/// Environment variables that look like options of this program but have no effect, each with advice.
pub(super) fn lookalikes() -> Vec<(String, String)> {
    flags::lookalikes(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

/// Warns about them.
pub(super) fn warn_of_lookalikes() {
    for (variable, advice) in lookalikes() {
        log::warn!(variable = variable.as_str(), advice = advice.as_str(); "a variable of the environment looks like an option of this program, but is none: it has no effect");
    }
}

/// What is probably wrong in `config`, as sentences.
pub(super) fn traps(config: &Config) -> Vec<String> {
    let mut traps = Vec::new();
    if config.servers.stdio().any(|stdio| stdio.user.is_none()) {
        traps.push(format!(
            "the MCP server runs as the same user as this proxy: if somebody can make it read any file, it can read {} and forge tokens; give it a user of its own with --stdio-user (STDIO_USER)",
            config.data_path.join("secret").display()
        ));
    }
    for servers in sharing_a_user(&config.servers) {
        traps.push(format!(
            "these MCP servers run as the same system user, so each can read the environment of the others, and their secrets: {}; start the proxy as root and give each a user of its own with proxy.stdio.user",
            servers.join(", ")
        ));
    }
    for shown in config.servers.stdio().filter_map(|stdio| published_data(&stdio.command, &config.data_path)) {
        traps.push(format!(
            "the MCP server is given a directory that has the data of this proxy in it, {shown}: whoever may use the server may read the key that signs tokens; publish another directory, or keep the data elsewhere with --data-path (DATA_PATH)"
        ));
    }
    traps.extend(strangers(config));
    let external = &config.external;
    if !external.secure && !external.is_loopback() {
        traps.push(format!(
            "--external-url (EXTERNAL_URL) is plain http, {}: passwords and tokens can be read on the way; use https",
            external.origin
        ));
    }
    traps
}

/// Users and groups that rules name, but the files of users and groups don't.
fn strangers(config: &Config) -> Vec<String> {
    const METHOD: &str = "htpasswd";
    let names: Vec<&str> = config.passwords.iter().filter_map(Password::name).collect();
    let groups: Vec<&str> = config.groups.values().flatten().map(String::as_str).collect();
    let mut found = Vec::new();
    for server in &config.servers.all {
        let Some(rules) = &server.rules else { continue };
        for name in rules.users_of(METHOD).filter(|name| !names.contains(name)) {
            found.push(format!(
                "server '{}' allows '{name}', who is not in --htpasswd-file (HTPASSWD_FILE): a slip, or somebody who has left",
                server.name
            ));
        }
        for group in rules.groups_of(METHOD).filter(|group| !groups.contains(group)) {
            found.push(format!(
                "server '{}' allows the group '{group}', in which --htgroup-file (HTGROUP_FILE) has nobody",
                server.name
            ));
        }
    }
    found
}

/// Logs what is probably wrong in `config`. `is_unsure` is true if the external URL or the listen address was not
/// given.
pub(super) fn warn_of_traps(config: &Config, ports: &Ports, is_unsure: bool) {
    if let Some(notice) = tls::notice(&config.tls_notice) {
        log::info!("{notice}");
    }
    traps(config).iter().for_each(|trap| log::warn!("{trap}"));
    let external = &config.external;
    let Ok(address) = ports.plain.local_addr() else { return };
    let port = address.port();
    // If the port serves other machines, it may be published under another number, as with containers. So compare the
    // two ports only where clients connect directly.
    let is_direct = is_unsure || (address.ip().is_loopback() && external.is_loopback());
    if is_direct && !external.secure && external.port != port {
        log::warn!(
            "--external-url (EXTERNAL_URL) is {}, but the port is {port}: clients will look in the wrong place; did you mean --external-url http://{}:{port}, or --listen :{} (LISTEN)?",
            external.origin,
            external.host,
            external.port
        );
    }
}
