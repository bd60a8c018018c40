//! The commands that ask a running proxy: `clients`, `keys`, `grants`, `users`, `sessions`, `status`, `reload`,
//! `keys-rotate` and `backup`; and `restore`, which needs none.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use time::{Date, Month, Time};

use super::protocol::{ControlAnswer, ControlRequest, NewClient, Which};
use super::{show, socket};
use crate::app::backup::{format, restore};
use crate::flags::values::duration;
use crate::flags::{OwnOptions, Settings};
use crate::store::rows::{ClientKeys, GrantType};
use crate::tokens::random_name;

/// How long the proxy may take for an answer.
const PATIENCE: Duration = Duration::from_secs(90);
/// Lifetime of an API key, if none is named.
const KEY_LIFETIME: u64 = 90 * 86_400;

/// Carries out a command and prints what came of it. The error is one line.
pub fn run(settings: &Settings, words: &[String], options: &OwnOptions) -> Result<(), String> {
    let data = Path::new(&settings.data_path);
    match words {
        [command, file] if command == "backup" => return backup(data, file),
        [command, file] if command == "restore" => return restore::run(data, file),
        _ => {}
    }
    let request = request(words, options)?;
    let (result, _) = ask(data, &request)?;
    let text = match options.has("json") {
        true => format!("{result}\n"),
        false => show::text(&request, &result),
    };
    // A reader such as `head` may close the pipe early.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Is everything well that the proxy with this data directory is there for? The error says what is not.
pub fn check_ready(data: &Path) -> Result<(), String> {
    let (status, _) = ask(data, &ControlRequest::Status {})?;
    match status["health"]["is_ready"] == true {
        true => Ok(()),
        false => Err(format!("the proxy is not ready: {}", status["health"])),
    }
}

/// Writes a back-up to `file`, or to standard output if it is `-`. A file appears only when it is whole.
fn backup(data: &Path, file: &str) -> Result<(), String> {
    let (_, mut copy) = ask(data, &ControlRequest::Backup {})?;
    if file == "-" {
        let mut whole = Vec::new();
        copy.read_to_end(&mut whole).map_err(|e| format!("the back-up broke off: {e}"))?;
        format::read(whole.as_slice()).map_err(|why| format!("the back-up broke off: {why}"))?;
        return io::stdout().write_all(&whole).map_err(|e| format!("standard output can't be written: {e}"));
    }
    let failed = |e: io::Error| format!("{file} can't be written: {e}");
    // A device or a pipe would be replaced by the file.
    if fs::symlink_metadata(file).is_ok_and(|found| !found.is_file()) {
        return Err(format!("{file} is there, and is no regular file; choose another, or '-' for standard output"));
    }
    // Nobody can have made a file of this name in advance, to read what is written into it.
    let temporary = format!("{file}.{}.new", random_name());
    // It has all keys in it.
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    let written = out
        .set_permissions(Permissions::from_mode(0o600))
        .and_then(|()| io::copy(&mut copy, &mut out))
        .and_then(|_| out.sync_all());
    let checked = written.map_err(failed).and_then(|()| {
        let read = File::open(&temporary).map_err(failed)?;
        format::read(BufReader::new(read)).map_err(|why| format!("the back-up broke off: {why}"))
    });
    let contents = checked.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    fs::rename(&temporary, file).map_err(failed)?;
    println!(
        "{file} has {} rows and {} files; it has all keys in it, so keep it where only you can read it",
        contents.rows.len(),
        contents.files.len()
    );
    Ok(())
}

fn request(words: &[String], options: &OwnOptions) -> Result<ControlRequest, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        ["status"] => ControlRequest::Status {},
        ["reload"] => ControlRequest::Reload {},
        ["keys-rotate"] => ControlRequest::KeysRotate { compromised: options.has("compromised") },
        ["clients", "list"] => ControlRequest::ClientsList {},
        ["clients", "add", name] => ControlRequest::ClientsAdd(new_client(name, options)?),
        ["clients", "remove", id] => ControlRequest::ClientsRemove { client_id: (*id).into() },
        ["keys", "list"] => ControlRequest::KeysList {},
        ["keys", "add", name] => ControlRequest::KeysAdd {
            name: (*name).into(),
            servers: options.all("server"),
            lifetime: seconds(options, "expires")?.unwrap_or(KEY_LIFETIME),
        },
        ["keys", "revoke", name] => ControlRequest::KeysRevoke { name: (*name).into() },
        ["grants", "list"] => ControlRequest::GrantsList(which(&[], options)?),
        ["grants", "revoke", grants @ ..] => ControlRequest::GrantsRevoke(which(grants, options)?),
        ["users", "list"] => ControlRequest::UsersList {},
        ["users", "sign-out", user] => ControlRequest::UsersSignOut { user: (*user).into(), apps: options.has("apps") },
        ["sessions", "list"] => ControlRequest::SessionsList {},
        [command, ..] => {
            return Err(format!("'{}' is not a command; see: mcp-auth-proxy {command} --help", words.join(" ")));
        }
        [] => return Err("a command is expected".into()),
    })
}

fn seconds(options: &OwnOptions, name: &str) -> Result<Option<u64>, String> {
    let parse = |text: &str| duration(text).map(|d| d.as_secs()).map_err(|why| format!("--{name}: {why}"));
    options.get(name).map(parse).transpose()
}

fn new_client(name: &str, options: &OwnOptions) -> Result<NewClient, String> {
    let grant_type = |text: &String| match text.as_str() {
        "client_credentials" => Ok(GrantType::ClientCredentials),
        "jwt-bearer" => Ok(GrantType::JwtBearer),
        "authorization_code" => Ok(GrantType::AuthorizationCode),
        _ => Err(format!("--grant-type: '{text}' is not one of client_credentials, jwt-bearer, authorization_code")),
    };
    let keys = match (options.get("jwks-file"), options.get("jwks-uri")) {
        (Some(_), Some(_)) => return Err("--jwks-file and --jwks-uri exclude each other".into()),
        (Some(file), None) => {
            let text = std::fs::read(file).map_err(|e| format!("--jwks-file: {file} can't be read: {e}"))?;
            let jwks =
                serde_json::from_slice(&text).map_err(|e| format!("--jwks-file: {file} is not a JWK set: {e}"))?;
            Some(ClientKeys::Jwks(jwks))
        }
        (None, Some(uri)) => Some(ClientKeys::JwksUri(uri.into())),
        (None, None) => None,
    };
    Ok(NewClient {
        name: name.into(),
        grant_types: options.all("grant-type").iter().map(grant_type).collect::<Result<_, _>>()?,
        servers: options.all("server"),
        redirect_uris: options.all("redirect-uri"),
        public: options.has("public"),
        keys,
        introspect: options.has("introspect"),
        token_lifetime: seconds(options, "token-lifetime")?,
    })
}

fn which(grants: &[&str], options: &OwnOptions) -> Result<Which, String> {
    Ok(Which {
        grants: grants.iter().map(|id| (*id).to_string()).collect(),
        user: options.get("user").map(String::from),
        client_id: options.get("client").map(String::from),
        before: options.get("before").map(time).transpose()?,
        all: options.has("all"),
    })
}

/// `2026-01-31`, `2026-01-31T12:30:00Z`, or seconds since 1970.
fn time(text: &str) -> Result<u64, String> {
    let parse = || -> Option<u64> {
        if let Ok(seconds) = text.parse() {
            return Some(seconds);
        }
        let (date, rest) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
        let numbers =
            |text: &str, by: char| text.split(by).map(|n| n.parse::<u16>().ok()).collect::<Option<Vec<u16>>>();
        let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
        let [hour, minute, second] = numbers(rest.strip_suffix('Z')?, ':')?.try_into().ok()?;
        let small = |n: u16| u8::try_from(n).ok();
        let date = Date::from_calendar_date(year.into(), Month::try_from(small(month)?).ok()?, small(day)?).ok()?;
        let time = Time::from_hms(small(hour)?, small(minute)?, small(second)?).ok()?;
        u64::try_from(date.with_time(time).assume_utc().unix_timestamp()).ok()
    };
    parse().ok_or_else(|| format!("--before: '{text}' is not a time such as 2026-01-31 or 2026-01-31T12:30:00Z"))
}

/// The proxy's answer, and what follows it.
fn ask(data: &Path, request: &ControlRequest) -> Result<(Value, BufReader<UnixStream>), String> {
    let shown = data.display();
    let mut stream = socket::connect(data).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no proxy is running on the data directory {shown}; start it, or name its directory with --data-path (DATA_PATH)"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("the data directory {shown} belongs to another user; run this as that user, or as root")
        }
        _ => format!("the proxy of the data directory {shown} can't be asked: {e}"),
    })?;
    let failed = |e: io::Error| format!("the proxy of the data directory {shown} did not answer: {e}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(|e| e.to_string())?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut answer = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut answer).map_err(failed)?;
    let answer: ControlAnswer = serde_json::from_str(&answer).map_err(|_| {
        format!("the proxy of the data directory {shown} closed the connection; only root and its own user may ask it")
    })?;
    match answer.error {
        Some(error) => Err(error),
        None => Ok((answer.result, reader)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_or_seconds() {
        assert_eq!(time("1970-01-02"), Ok(86_400));
        assert_eq!(time("2026-01-31T12:30:00Z"), Ok(1_769_862_600));
        assert_eq!(time("1700000000"), Ok(1_700_000_000));
        for bad in ["", "yesterday", "2026-13-01", "2026-01-32", "2026-01-31T25:00:00Z", "2026-01-31T12:30:00", "-5"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
