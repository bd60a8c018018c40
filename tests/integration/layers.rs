//! The house itself: which room may look at which, and that the table of threats speaks of what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms in rows, from the top of the house to the bottom. A file may look at its own room, at rooms in lower rows, and
/// at rooms further left in its own row.
const LAYERS: &[&[&str]] = &[
    &["app", "main"],
    &["interaction"],
    &["oauth"],
    &["resource"],
    &["tls", "login", "upstream"],
    &["pages", "core", "data_dir"],
    &["store", "tokens", "http", "mcp"],
    &["net", "flags"],
    &[
        "clock",
        "thread",
        "wake",
        "blocking",
        "observe",
        "url",
        "redirect_uri",
        "encoding",
        "identity",
        "rules",
        "privileges",
    ],
];

fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    walk(&root().join("src"), &mut out);
    out.sort();
    out
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The module path of a file: `["oauth", "token"]`.
fn module_of(file: &Path) -> Vec<String> {
    let path = file.strip_prefix(root().join("src")).unwrap().with_extension("");
    let parts = path.iter().map(|p| p.to_str().unwrap().to_string());
    parts.filter(|p| p != "mod").collect()
}

/// What a file says outside its tests, without comments.
fn code_of(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The rooms that `code` of the module `path` names, by `crate::room` and by `super::` that leads to the root.
fn looks_at(path: &[String], code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            // `use crate::{a, b::c}`
            Some(list) => {
                let list = list.split('}').next().unwrap();
                found.extend(list.split(',').map(|item| word(item.trim())));
            }
            None => drop(found.insert(word(rest))),
        }
    }
    for (at, _) in code.match_indices("super::") {
        let before = &code[..at];
        let preceding = before.len() - before.trim_end_matches("super::").len();
        if preceding > 0 {
            continue;
        }
        let rest = code[at..].trim_start_matches("super::");
        let ups = (code[at..].len() - rest.len()) / "super::".len();
        if ups >= path.len() {
            found.insert(word(rest));
        }
    }
    found.retain(|room| !room.is_empty());
    found
}

/// Row and place in it.
fn rank(room: &str) -> Option<(usize, usize)> {
    LAYERS.iter().enumerate().find_map(|(row, rooms)| Some((row, rooms.iter().position(|r| *r == room)?)))
}

/// May a file of room `from` look at room `at`?
fn may_look(from: (usize, usize), at: (usize, usize)) -> bool {
    from == at || at.0 > from.0 || (at.0 == from.0 && at.1 < from.1)
}

#[test]
fn layers_look_downwards() {
    let mut wrong = Vec::new();
    for file in sources() {
        let path = module_of(&file);
        let Some(room) = path.first().filter(|room| *room != "lib") else { continue };
        let Some(own) = rank(room) else {
            wrong.push(format!("{room} stands in no layer"));
            continue;
        };
        for other in looks_at(&path, &code_of(&file)) {
            // A macro or a function of the root is no room.
            let Some(its) = rank(&other) else { continue };
            if !may_look(own, its) {
                wrong.push(format!("src/{}.rs looks up at {other}", path.join("/")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn layers_are_read_from_every_form_of_a_path() {
    let path = |text: &str| text.split("::").map(String::from).collect::<Vec<_>>();
    let found = |module: &str, code: &str| looks_at(&path(module), code).into_iter().collect::<Vec<_>>();
    assert_eq!(
        found("oauth::token", "use crate::http::Body;\nlet x = crate::tokens::digest(b\"\");"),
        ["http", "tokens"]
    );
    assert_eq!(found("oauth", "use crate::{net, store::rows};"), ["net", "store"]);
    assert_eq!(found("oauth::token", "use super::super::login;\nuse super::form;"), ["login"]);
    assert_eq!(found("serve", "use super::flags::Flag;"), ["flags"]);
}

#[test]
fn the_table_of_threats_names_code_and_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let modules: Vec<Vec<String>> = sources().iter().map(|f| module_of(f)).collect();
    let mut tests = Vec::new();
    let mut files = sources();
    let mut integration = Vec::new();
    walk_tests(&root().join("tests/integration"), &mut integration);
    files.extend(integration);
    for file in &files {
        let source = std::fs::read_to_string(file).unwrap();
        let module = match file.strip_prefix(root().join("tests/integration")) {
            Ok(path) => path
                .with_extension("")
                .iter()
                .map(|p| p.to_str().unwrap())
                .filter(|p| *p != "mod")
                .collect::<Vec<_>>()
                .join("::"),
            Err(_) => String::new(),
        };
        for (at, _) in source.match_indices("fn ") {
            let name: String = source[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            tests.push((module.clone(), name));
        }
    }
    let mut wrong = Vec::new();
    let mut rows = 0;
    for row in text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| **") && !l.starts_with("| threat")) {
        rows += 1;
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>();
        for code in quoted(cells[cells.len() - 2]) {
            let wanted: Vec<&str> = code.trim_start_matches("…::").split("::").collect();
            if !modules.iter().any(|m| m.ends_with(&wanted.iter().map(|w| w.to_string()).collect::<Vec<_>>())) {
                wrong.push(format!("no file {code}"));
            }
        }
        for test in quoted(cells[cells.len() - 1]) {
            if matches!(test.as_str(), "sslyze" | "testssl") || root().join(&test).is_file() {
                continue;
            }
            let (module, name) = test.rsplit_once("::").map_or(("", test.as_str()), |(m, n)| (m, n));
            // `…name` stands in the module of the one before.
            let (module, name) = (module.trim_start_matches('…'), name.trim_start_matches('…'));
            let fits = |(m, n): &(String, String)| {
                (module.is_empty() || m == module)
                    && match name.strip_suffix('…') {
                        Some(start) => n.starts_with(start),
                        None => n == name,
                    }
            };
            if !tests.iter().any(fits) {
                wrong.push(format!("no test {test}"));
            }
        }
    }
    assert!(rows > 60, "the table was not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn walk_tests(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk_tests(&path, out),
            false => out.push(path),
        }
    }
}
