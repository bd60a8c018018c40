//! The command `restore`: writes a back-up into an empty data directory.

use std::fs;
use std::io::{self, BufReader};
use std::path::Path;

use super::format::{self, Contents};
use crate::data_dir::{self, RESTORING, make_private, open_store, prepare_directory, write_durably};
use crate::store::StoreError;

/// Restores the back-up in `file`, or from standard input if it is `-`. The error is one line.
pub fn run(data: &Path, file: &str) -> Result<(), String> {
    let contents = match file {
        "-" => format::read(io::stdin().lock()),
        path => {
            let opened = fs::File::open(path).map_err(|e| format!("{path} can't be read: {e}"))?;
            format::read(BufReader::new(opened))
        }
    };
    let contents = contents.map_err(|why| format!("{file}: {why}"))?;
    let shown = data.display();
    check_empty(data)?;
    make_private(data).map_err(|e| format!("--data-path (DATA_PATH): {shown} can't be made: {e}"))?;
    // A proxy refuses to start as long as it is there: with the store and without the secret, it would make another.
    let mark = data.join(RESTORING);
    let failed = |e: io::Error| format!("--data-path (DATA_PATH): {shown} can't be written: {e}");
    write_durably(&mark, "").map_err(failed)?;
    prepare_directory(data)?;
    let (rows, files) = (contents.rows.len(), contents.files.len());
    write(data, contents)?;
    fs::remove_file(&mark).map_err(failed)?;
    println!("restored {rows} rows and {files} files into {shown}");
    Ok(())
}

/// Restoring over what is there would mix two states. What an attempt that broke off has left is removed.
fn check_empty(data: &Path) -> Result<(), String> {
    let shown = data.display();
    let refuse = |what: String| format!("--data-path (DATA_PATH): {what}");
    let names = || -> io::Result<Vec<_>> { fs::read_dir(data)?.map(|entry| Ok(entry?.file_name())).collect() };
    let found = match names() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|e| refuse(format!("{shown} can't be read: {e}")))?,
    };
    if found.iter().any(|name| name == RESTORING) {
        let remove = |name: &std::ffi::OsString| match data.join(name) {
            path if path.is_dir() => fs::remove_dir_all(path),
            path => fs::remove_file(path),
        };
        return found.iter().filter(|name| *name != RESTORING).try_for_each(remove).map_err(|e| {
            refuse(format!("{shown} has the rest of a restore that broke off, which can't be removed: {e}"))
        });
    }
    match found.is_empty() {
        true => Ok(()),
        false => Err(refuse(format!(
            "{shown} is not empty; a back-up is restored into an empty directory, or one that is not there yet"
        ))),
    }
}

fn write(data: &Path, contents: Contents) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| {
        format!("--data-path (DATA_PATH): {} can't be written: {e}; run the command again", data.display())
    };
    let store = open_store(data, data_dir::Use::Restore)?;
    let done = store.transact(Box::new(move |tx| {
        contents.rows.into_iter().for_each(|(table, key, row)| tx.put(table, &key, row));
        Ok(())
    }));
    done.map_err(|e: StoreError| failed(&e))?;
    drop(store);
    for (name, text) in contents.files {
        let path = data.join(&name);
        if let Some(folder) = path.parent() {
            make_private(folder).map_err(|e| failed(&e))?;
        }
        write_durably(&path, &text).map_err(|e| failed(&e))?;
    }
    Ok(())
}
