//! Checks of the source itself: which module may use which, and that the map and the table of threats name what exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The layers, from the top to the bottom. A file may use its own module, modules in lower layers, and modules further left
/// in its own layer.
const LAYERS: &[&[&str]] = &[
    &["app", "main"],
    &["interaction"],
    &["oauth"],
    &["resource"],
    &["tls", "login", "upstream"],
    &["pages", "core", "data_dir"],
    &["store", "tokens", "http", "mcp"],
    &["net", "flags", "servers_file"],
    &[
        "lock",
        "wake",
        "blocking",
        "bounded_map",
        "token_bucket",
        "clock",
        "thread",
        "observe",
        "url",
        "redirect_uri",
        "redirect_pattern",
        "resource_url",
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

/// The paths in `code` of the module `path`, from the root: by `crate::`, `super::` and `self::`, in `use` lines with their
/// trees and inline.
fn paths_in(path: &[String], code: &str) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = &code[..at];
            let is_within = before.ends_with("::") || before.ends_with(is_word) || before.ends_with("pub(in ");
            if is_within || before.ends_with('$') {
                continue;
            }
            let mut rest = &code[at..];
            let mut base: Vec<String> = match start {
                "crate::" => Vec::new(),
                _ => path.to_vec(),
            };
            while let Some(after) = ["crate::", "super::", "self::"].iter().find_map(|w| rest.strip_prefix(w)) {
                if rest.starts_with("super::") {
                    base.pop();
                }
                rest = after;
            }
            expand(rest, base, &mut found);
        }
    }
    found
}

/// Adds the path or the tree of paths that `text` begins with.
fn expand(text: &str, mut base: Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut rest = text.trim_start();
    loop {
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut item) = (0, String::new());
            for c in list.chars() {
                match c {
                    ',' if depth == 0 => {
                        expand(&std::mem::take(&mut item), base.clone(), found);
                        continue;
                    }
                    '}' if depth == 0 => return expand(&item, base, found),
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                item.push(c);
            }
            return;
        }
        let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if word.is_empty() {
            break;
        }
        rest = &rest[word.len()..];
        if word != "self" {
            base.push(word);
        }
        match rest.strip_prefix("::") {
            Some(after) => rest = after,
            None => break,
        }
    }
    if !base.is_empty() {
        found.push(base);
    }
}

/// The modules that each file uses: the longest part of each path that is a module.
fn uses() -> Vec<(Vec<String>, BTreeSet<Vec<String>>)> {
    let files = sources();
    let modules: BTreeSet<Vec<String>> = files.iter().map(|f| module_of(f)).collect();
    let mut all = Vec::new();
    for file in &files {
        let path = module_of(file);
        let mut at = BTreeSet::new();
        for named in paths_in(&path, &code_of(file)) {
            let longest = (1..=named.len()).rev().map(|n| named[..n].to_vec()).find(|part| modules.contains(part));
            at.extend(longest.filter(|found| *found != path));
        }
        all.push((path, at));
    }
    all
}

/// A module's layer, and its place in it.
fn rank(module: &str) -> Option<(usize, usize)> {
    LAYERS.iter().enumerate().find_map(|(layer, modules)| Some((layer, modules.iter().position(|m| *m == module)?)))
}

/// May a file of the module at `from` use the module at `at`?
fn may_use(from: (usize, usize), at: (usize, usize)) -> bool {
    from == at || at.0 > from.0 || (at.0 == from.0 && at.1 < from.1)
}

#[test]
fn files_use_only_lower_layers() {
    let mut wrong = Vec::new();
    for (path, at) in uses() {
        let Some(module) = path.first().filter(|module| *module != "lib") else { continue };
        let Some(own) = rank(module) else {
            wrong.push(format!("{module} is in no layer"));
            continue;
        };
        for other in at.iter().filter(|other| rank(&other[0]).is_some_and(|its| !may_use(own, its))) {
            wrong.push(format!("src/{} uses src/{} of a higher layer", path.join("/"), other.join("/")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_folders_module_imports_its_files_and_is_imported_by_none_of_them() {
    let mut wrong = Vec::new();
    for (path, at) in uses() {
        for folder in at.iter().filter(|other| path.len() > other.len() && path.starts_with(other)) {
            wrong.push(format!("src/{} imports src/{}/mod.rs", path.join("/"), folder.join("/")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut left = uses();
    // A file that imports no file that is left, or that none of those imports, is in no circle.
    loop {
        let names: BTreeSet<_> = left.iter().map(|(path, _)| path.clone()).collect();
        let imported: BTreeSet<_> = left.iter().flat_map(|(_, at)| at.iter().cloned()).collect();
        let before = left.len();
        left.retain(|(path, at)| at.iter().any(|other| names.contains(other)) && imported.contains(path));
        if left.len() == before {
            break;
        }
    }
    let names: BTreeSet<_> = left.iter().map(|(path, _)| path.clone()).collect();
    let shown = left.iter().map(|(path, at)| {
        let at: Vec<_> = at.intersection(&names).map(|other| other.join("/")).collect();
        format!("src/{} imports {}", path.join("/"), at.join(", "))
    });
    assert!(left.is_empty(), "among these is a circle:\n{}", shown.collect::<Vec<_>>().join("\n"));
}

#[test]
fn no_file_is_longer_than_five_hundred_lines() {
    // The list of options is a table, and help, reference and man page are made from it.
    const TABLES: &[&str] = &["flags/list.rs"];
    let mut long = Vec::new();
    for file in sources() {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        if lines > 500 && !TABLES.iter().any(|table| file.ends_with(table)) {
            long.push(format!("{}: {lines}", file.display()));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn no_function_is_longer_than_sixty_lines() {
    // The defaults of all options are a table.
    const TABLES: &[&str] = &["flags/settings.rs: default"];
    let mut long = Vec::new();
    for file in sources() {
        let code = code_of(&file);
        let lines: Vec<&str> = code.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let indent = &line[..line.len() - line.trim_start().len()];
            let Some((before, after)) = line.split_once("fn ") else { continue };
            if !before.trim_start().split(' ').all(|word| word.is_empty() || word.starts_with("pub") || word == "const")
            {
                continue;
            }
            let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let size = lines[at..].iter().position(|l| *l == format!("{indent}}}")).map_or(0, |n| n + 1);
            let shown = format!("{}: {name}", file.strip_prefix(root().join("src")).unwrap().display());
            if size > 60 && !TABLES.contains(&shown.as_str()) {
                long.push(format!("{shown}: {size}"));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_conformance_table_names_tests_that_exist() {
    let table = std::fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let (mut missing, mut named) = (Vec::new(), 0);
    let quoted = table.split('`').skip(1).step_by(2).filter_map(|text| text.split_once("::"));
    for (file, name) in quoted.filter(|(file, _)| file.ends_with(".rs") || file.ends_with(".mjs")) {
        named += 1;
        let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        let is_there = match file.ends_with(".rs") {
            true => text.contains(&format!("fn {name}(")),
            false => text.contains(&format!("\"{name}\": async")),
        };
        if !is_there {
            missing.push(format!("{file}::{name}"));
        }
    }
    assert!(named > 100, "only {named} tests are named");
    assert!(missing.is_empty(), "docs/conformance.md names what is not there:\n{}", missing.join("\n"));
}

#[test]
fn the_images_have_the_toolchain() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let file = read("rust-toolchain.toml");
    let channel = file.lines().find_map(|l| l.strip_prefix("channel = ")).unwrap().trim_matches('"').to_string();
    let mut images = 0;
    for name in ["Dockerfile", ".github/workflows/test.yml"] {
        for (at, _) in read(name).match_indices("library/rust:") {
            let tag = read(name)[at + "library/rust:".len()..].split('-').next().unwrap().to_string();
            assert!(channel.starts_with(&format!("{tag}.")) || channel == tag, "{name} has {tag}, not {channel}");
            images += 1;
        }
    }
    assert_eq!(images, 2);
}

#[test]
fn layers_are_read_from_every_form_of_a_path() {
    let path = |text: &str| text.split("::").map(String::from).collect::<Vec<_>>();
    let found = |module: &str, code: &str| {
        paths_in(&path(module), code).iter().map(|p| p.join("::")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        found("oauth::token", "use crate::http::Body;\nlet x = crate::tokens::digest(b\"\");"),
        "http::Body tokens::digest"
    );
    assert_eq!(found("oauth", "use crate::{net, store::{rows, self}};"), "net store::rows store");
    assert_eq!(
        found("oauth::token", "use super::super::login;\nuse super::form::{A, B as C};"),
        "login oauth::form::A oauth::form::B"
    );
    assert_eq!(found("serve", "use super::flags::Flag;"), "flags::Flag");
    assert_eq!(found("http::h1", "pub(in crate::http) fn f() {}"), "");
}

#[test]
fn the_map_names_modules_that_exist() {
    let map = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules: BTreeSet<String> = sources().iter().map(|f| module_of(f).join("::")).collect();
    let rows = map.lines().filter(|l| l.starts_with("//! | ")).flat_map(|l| l.split('`').skip(1).step_by(2));
    let named: Vec<&str> =
        rows.filter(|name| name.chars().all(|c| c.is_lowercase() || "_:0123456789".contains(c))).collect();
    assert!(named.len() > 50, "the tables were not found");
    let wrong: Vec<_> = named.iter().filter(|name| !modules.contains(**name)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_documentation_quotes_messages_that_exist() {
    let whole = |file: &PathBuf| std::fs::read_to_string(file).unwrap();
    // A message may go over several lines of the source.
    let source = sources().iter().map(whole).collect::<String>();
    let source = source.split("\\\n").map(str::trim_start).collect::<String>();
    let mut wrong = Vec::new();
    for name in ["docs/troubleshooting.md", "docs/providers.md"] {
        let text = whole(&root().join(name));
        let tables = text.split("\n| the log says |").skip(1);
        let rows: Vec<&str> =
            tables.flat_map(|table| table.lines().skip(2).take_while(|row| row.starts_with('|'))).collect();
        assert!(rows.len() > 5, "the table of {name} was not found");
        for row in rows {
            let quoted = row.split(" | ").next().unwrap().split('`').skip(1).step_by(2);
            let parts = quoted.flat_map(|message| message.split('…')).map(str::trim);
            wrong.extend(parts.filter(|part| !source.contains(part)).map(String::from));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
                (module.is_empty() || m == module || m.ends_with(&format!("::{module}")))
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
