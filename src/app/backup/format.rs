//! The file of a back-up: JSON lines.
//!
//! The first says what it is, the last how many there are and their digest, so that a file that was cut is noticed. In
//! between are the small files of the data directory, and the rows of the store as they were at one moment.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::encoding::base64url;
use crate::store::{FORMAT, Row, State, Table};

/// Version of the file.
const VERSION: u32 = 1;
/// Files of the data directory that are in it, beside those of the certificate authority.
const FILES: [&str; 3] = ["secret", "secrets-previous", "assertion-key"];
/// The folder with the account, certificates and orders of the certificate authority.
const ACME: &str = "acme";
/// Longest line, in bytes. A row has a few hundred.
const MAX_LINE: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first.
    Backup { version: u32, store_format: u64, created_at: Timestamp, program: String },
    /// A file of the data directory.
    File { name: String, text: String },
    /// A row of the store.
    Row { table: String, key: String, expires_at: Timestamp, value: Box<RawValue> },
    /// The last: how many lines are before it, and their SHA-256.
    End { lines: u64, sha256: String },
}

/// What a back-up has in it.
#[derive(Default)]
pub struct Contents {
    /// When it was made.
    pub created_at: Timestamp,
    /// Names and texts of files.
    pub files: BTreeMap<String, String>,
    /// The rows.
    pub rows: Vec<(Table, String, Row)>,
}

/// Writes lines, and counts and digests them.
struct Writer<'w> {
    out: &'w mut dyn Write,
    digest: Sha256,
    lines: u64,
    bytes: u64,
}

impl Writer<'_> {
    fn put(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.digest.update(&text);
        self.lines += 1;
        self.bytes += text.len() as u64;
        self.out.write_all(&text)
    }
}

/// Writes a back-up of the data directory and of the store in it. Returns its size in bytes.
pub fn write(out: &mut dyn Write, data: &Path, state: &State) -> io::Result<u64> {
    let mut writer = Writer { out, digest: Sha256::new(), lines: 0, bytes: 0 };
    writer.put(&Line::Backup {
        version: VERSION,
        store_format: FORMAT,
        created_at: state.clock().now(),
        program: env!("CARGO_PKG_VERSION").into(),
    })?;
    for name in names(data)? {
        let text = fs::read_to_string(data.join(&name))?;
        writer.put(&Line::File { name, text })?;
    }
    let mut outcome = Ok(());
    let scanned = state.snapshot(&mut |table, key, row| {
        if outcome.is_ok() {
            outcome = put_row(&mut writer, table, key, &row);
        }
        outcome.is_ok()
    });
    outcome.and(scanned.map_err(io::Error::other))?;
    let (lines, sha256) = (writer.lines, base64url(std::mem::take(&mut writer.digest).finalize()));
    writer.put(&Line::End { lines, sha256 })?;
    writer.out.flush()?;
    Ok(writer.bytes)
}

fn put_row(writer: &mut Writer<'_>, table: Table, key: &str, row: &Row) -> io::Result<()> {
    let value = serde_json::from_slice(&row.value)?;
    writer.put(&Line::Row { table: table.name().into(), key: key.into(), expires_at: row.expires_at, value })
}

/// The files that belong in a back-up, by their names below the data directory.
fn names(data: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> =
        FILES.iter().filter(|name| data.join(name).is_file()).map(|name| name.to_string()).collect();
    let mut folders = vec![PathBuf::from(ACME)];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(data.join(&folder)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            match (entry.file_type()?, path.to_str()) {
                (kind, _) if kind.is_dir() => folders.push(path),
                // A file that is being written is not whole.
                (kind, Some(name)) if kind.is_file() && !name.ends_with(".new") => names.push(name.into()),
                _ => {}
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a back-up, and checks that it is whole. The error is one line.
pub fn read(mut input: impl BufRead) -> Result<Contents, String> {
    let (mut contents, mut digest, mut lines) = (Contents::default(), Sha256::new(), 0u64);
    loop {
        let mut text = Vec::new();
        let mut limited = io::Read::take(&mut input, MAX_LINE as u64 + 1);
        limited.read_until(b'\n', &mut text).map_err(|e| format!("it can't be read: {e}"))?;
        if text.is_empty() {
            return Err("it is not whole: its end is missing".into());
        }
        let line: Line = serde_json::from_slice(&text).map_err(|_| match lines {
            0 => "it is no back-up of mcp-auth-proxy".to_string(),
            _ => format!("line {} is damaged, or cut", lines + 1),
        })?;
        if (lines == 0) != matches!(line, Line::Backup { .. }) {
            return Err("it is no back-up of mcp-auth-proxy: its beginning is missing".into());
        }
        if let Line::End { lines: counted, sha256 } = &line {
            if *counted != lines || *sha256 != base64url(digest.finalize()) {
                return Err("it is damaged: its digest is another".into());
            }
            return match input.fill_buf().map(<[u8]>::is_empty) {
                Ok(true) => Ok(contents),
                _ => Err("there is something behind its end".into()),
            };
        }
        digest.update(&text);
        lines += 1;
        contents.add(line)?;
    }
}

impl Contents {
    fn add(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Backup { version, store_format, created_at, program } => {
                if version > VERSION || store_format > FORMAT {
                    return Err(format!("it was made by a newer version, {program}: install that one, or a later one"));
                }
                self.created_at = created_at;
            }
            Line::File { name, text } => {
                if !is_file_of_ours(&name) {
                    return Err(format!("it has a file '{}' that does not belong there", name.escape_debug()));
                }
                self.files.insert(name, text);
            }
            Line::Row { table, key, expires_at, value } => {
                let table = Table::ALL.into_iter().find(|known| known.name() == table);
                let table = table.ok_or("it has rows of a table that this version does not know")?;
                self.rows.push((table, key, Row { expires_at, value: value.get().into() }));
            }
            Line::End { .. } => {}
        }
        Ok(())
    }
}

/// May a back-up write a file of this name? One that somebody has changed must not write elsewhere.
fn is_file_of_ours(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let is_plain = parts.all(|part| matches!(part, Component::Normal(_))) && !name.contains(['\0', '\\']);
    FILES.contains(&name) || (is_plain && Path::new(name).starts_with(ACME) && name.len() > ACME.len() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: &[Line]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer { out: &mut out, digest: Sha256::new(), lines: 0, bytes: 0 };
        lines.iter().for_each(|line| writer.put(line).unwrap());
        let (lines, sha256) = (writer.lines, base64url(std::mem::take(&mut writer.digest).finalize()));
        writer.put(&Line::End { lines, sha256 }).unwrap();
        out
    }

    fn header(version: u32, store_format: u64) -> Line {
        Line::Backup { version, store_format, created_at: 7, program: "9.9.9".into() }
    }

    fn row(table: &str) -> Line {
        let value = serde_json::from_str(r#"{"a": [1,  2]}"#).unwrap();
        Line::Row { table: table.into(), key: "k\n".into(), expires_at: 3, value }
    }

    #[test]
    fn what_is_written_is_read_and_every_cut_and_every_change_is_noticed() {
        let whole = file(&[header(1, 1), Line::File { name: "secret".into(), text: "s".into() }, row("grants")]);
        let contents = read(whole.as_slice()).unwrap();
        assert_eq!((contents.created_at, contents.files["secret"].as_str()), (7, "s"));
        let (table, key, row) = &contents.rows[0];
        assert_eq!((*table, key.as_str(), row.expires_at), (Table::Grants, "k\n", 3));
        assert_eq!(row.value, br#"{"a": [1,  2]}"#, "as it was written");
        for end in 0..whole.len() - 1 {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                // The last line break can be anything.
                assert!(read(changed.as_slice()).is_err() || at == whole.len() - 1, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn only_files_of_ours_and_known_formats_are_taken() {
        for (version, format) in [(2, 1), (1, FORMAT + 1)] {
            assert!(read(file(&[header(version, format)]).as_slice()).err().unwrap().contains("newer version, 9.9.9"));
        }
        assert!(read(file(&[header(1, 1), row("no_such_table")]).as_slice()).is_err());
        assert!(read(file(&[row("grants")]).as_slice()).is_err(), "no beginning");
        let twice = [file(&[header(1, 1)]), file(&[header(1, 1)])].concat();
        assert!(read(twice.as_slice()).err().unwrap().contains("behind its end"));
        assert!(read(file(&[header(1, 1), header(1, 1)]).as_slice()).is_err(), "two beginnings");
        assert!(read(&b"{}\n"[..]).err().unwrap().contains("no back-up"));
        assert!(read(vec![b'x'; 3 << 20].as_slice()).is_err(), "a line without end");
        for name in ["acme/account.json", "acme/a/b.pem", "secret"] {
            assert!(is_file_of_ours(name), "{name}");
        }
        for name in
            ["", "/etc/passwd", "acme", "acme/", "acme/../../x", "../secret", "state.redb", "acme/./../x", "other"]
        {
            assert!(!is_file_of_ours(name), "{name}");
        }
    }
}
