//! What the commands print for a person.

use serde_json::Value;
use time::OffsetDateTime;

use super::protocol::ControlRequest;

/// The text for the result of a request.
pub(super) fn text(request: &ControlRequest, result: &Value) -> String {
    let field = |name: &str| cell(result.get(name).unwrap_or(&Value::Null), name);
    match request {
        // It goes to a file.
        ControlRequest::Backup {} => String::new(),
        ControlRequest::Status {} => status(result),
        ControlRequest::Reload {} => format!("{}\n", field("said")),
        ControlRequest::ClientsList {} => {
            table(result, &["client_id", "name", "kind", "auth_method", "servers", "grants", "issued_at"])
        }
        ControlRequest::ClientsAdd(_) => match result.get("client_secret") {
            Some(_) => format!(
                "client_id      {}\nclient_secret  {}\n\nThe secret is shown this once; only its digest is stored.\n",
                field("client_id"),
                field("client_secret")
            ),
            None => format!("client_id  {}\n", field("client_id")),
        },
        ControlRequest::ClientsRemove { .. } => {
            format!("The client is removed, and {} grants have ended.\n", field("grants"))
        }
        ControlRequest::KeysList {} => {
            table(result, &["name", "servers", "created_at", "expires_at", "last_used_at", "last_used_from"])
        }
        ControlRequest::KeysAdd { .. } => format!(
            "{}\n\nIt is shown this once; only its digest is stored. It expires on {}.\nSend it as: Authorization: Bearer KEY\n",
            field("key"),
            field("expires_at")
        ),
        ControlRequest::KeysRevoke { .. } => "The key is revoked.\n".into(),
        ControlRequest::KeysRotate { compromised: false } => {
            "The keys are replaced. What was signed with the previous ones stays valid.\n".into()
        }
        ControlRequest::KeysRotate { compromised: true } => {
            format!(
                "The keys are replaced, and {} grants have ended. Everybody has to sign in again.\n",
                field("grants_ended")
            )
        }
        ControlRequest::GrantsList(_) => table(
            result,
            &["grant", "user", "client_id", "client_name", "servers", "created_at", "last_used_at", "last_used_from"],
        ),
        ControlRequest::GrantsRevoke(_) => format!("{} grants have ended.\n", field("revoked")),
        ControlRequest::UsersList {} => table(result, &["user", "email", "sessions", "grants", "last_sign_in"]),
        ControlRequest::UsersSignOut { apps, .. } => {
            let left = if *apps { "" } else { " Applications keep their access; --apps ends that too." };
            format!("{} browsers are signed out, and {} grants have ended.{left}\n", field("sessions"), field("grants"))
        }
        ControlRequest::SessionsList {} => table(result, &["server", "user", "client_id", "expires_at"]),
    }
}

fn status(result: &Value) -> String {
    let field = |name: &str| cell(result.get(name).unwrap_or(&Value::Null), name);
    let mut out = format!("{}\n{}, up for {} s\n", field("version"), field("external_url"), field("uptime"));
    if let Some(certificate) = result.get("certificate").filter(|c| !c.is_null()) {
        let names = cell(&certificate["names"], "names");
        let kind = if certificate["is_trusted"] == true { "" } else { ", self-signed" };
        out += &format!("certificate for {names} until {}{kind}\n", cell(&certificate["expires_at"], "expires_at"));
    }
    let health = &result["health"];
    let ready = if health["is_ready"] == true { "yes" } else { "no" };
    out += &format!("ready: {ready}\n");
    for (part, trouble) in [
        ("store", "the store can't be read or written, so nobody can sign in"),
        ("certificate", "the certificate is not good"),
        ("audit_log", "the audit log can't be written"),
    ] {
        if health[part] == false {
            out += &format!("  {trouble}; the log says why\n");
        }
    }
    for server in result["servers"].as_array().into_iter().flatten() {
        let state = if server["is_down"] == true { "did not answer the last time" } else { "ok" };
        out += &format!("server {} {state}\n", cell(&server["url"], "url"));
    }
    for name in ["clients", "grants", "sessions", "api_keys", "streams"] {
        out += &format!("{}: {}\n", name.replace('_', " "), field(name));
    }
    out
}

/// One line for each row, in columns.
fn table(rows: &Value, columns: &[&str]) -> String {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return "There are none.\n".into();
    }
    let head: Vec<String> = columns.iter().map(|column| column.replace('_', " ")).collect();
    let body = rows.iter().map(|row| columns.iter().map(|column| cell(&row[*column], column)).collect::<Vec<_>>());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out
}

/// A value for a person. What a client has chosen must not move the cursor.
fn cell(value: &Value, name: &str) -> String {
    let is_time = name.ends_with("_at") || name == "last_sign_in";
    let text = match value {
        Value::Null => "-".into(),
        Value::Number(n) if is_time => n.as_u64().map_or_else(|| n.to_string(), date),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => "all".into(),
        Value::Array(all) => all.iter().map(|one| cell(one, "")).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control() && !crate::observe::log::is_bidi_control(*c)).collect()
}

fn date(seconds: u64) -> String {
    let Some(at) = i64::try_from(seconds).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok()) else {
        return "never".into();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}
