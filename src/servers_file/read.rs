//! Turns a document into the list of servers. Every error names the file, the line, the server and the key.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::checks::{is_segment, nearest, segment_like, wrong};
use super::document::{Member, Node, Value, parse};
use super::entry::{Entry, FileContent, Note, Proxied, StdioKeys, Transport};
use super::keys::{self, Key, Object, PASSED, Passed};
use super::variables::{Expanded, expand, lines, looks_unexpanded};
use crate::flags::values;
use crate::rules::ServerRulesText;

/// Where values come from besides the file.
pub(super) struct Surroundings<'s> {
    pub(super) path: &'s Path,
    pub(super) env: &'s dyn Fn(&str) -> Option<String>,
    pub(super) secrets: &'s [&'s str],
    pub(super) read: &'s dyn Fn(&Path) -> Result<String, String>,
}

/// Reads the servers of the file at `path` whose text is `text`. `env` knows the variables, `secrets` are the names of those
/// with the proxy's own secrets, `read` reads an `envFile`. The error is one line.
pub fn read(
    path: &Path,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    secrets: &[&str],
    read: &dyn Fn(&Path) -> Result<String, String>,
) -> Result<FileContent, String> {
    let around = Surroundings { path, env, secrets, read };
    let root = parse(text).map_err(|(line, why)| format!("{}:{line}: {why}", path.display()))?;
    let servers = servers(&around, &root)?;
    let mut content = FileContent::default();
    for member in servers {
        let reader = Reader { around: &around, server: &member.name, notes: &mut content.notes };
        content.entries.extend(reader.server(member)?);
    }
    check_paths(&around, &content.entries)?;
    Ok(content)
}

/// The object with the servers.
fn servers<'d>(around: &Surroundings<'_>, root: &'d Node) -> Result<&'d [Member], String> {
    let refuse = |line: usize, why: &str| Err(format!("{}:{line}: {why}", around.path.display()));
    let Some(members) = root.members() else {
        return refuse(root.line, "an object is expected, with mcpServers in it");
    };
    let of = |name: &str| members.iter().find(|member| member.name == name);
    let found = match (of("mcpServers"), of("servers")) {
        (Some(_), Some(second)) => {
            return refuse(second.line, "there is mcpServers and servers; one file has one of them");
        }
        (Some(found), None) | (None, Some(found)) => found,
        (None, None) => {
            return refuse(
                root.line,
                "there is neither mcpServers (Claude, Cursor, Windsurf, Gemini CLI) nor servers (VS Code)",
            );
        }
    };
    match found.node.members() {
        Some(servers) => Ok(servers),
        None => refuse(found.line, &format!("{} has to be an object with a member for each server", found.name)),
    }
}

/// Do all have different paths?
fn check_paths(around: &Surroundings<'_>, entries: &[Entry]) -> Result<(), String> {
    let legacy: Vec<&Entry> = entries.iter().filter(|entry| entry.proxy.is_legacy).collect();
    let refuse = |entry: &Entry, why: String| {
        Err(format!("{}:{}: server '{}': {why}", around.path.display(), entry.line, entry.name))
    };
    if let [first, second, ..] = legacy.as_slice() {
        return refuse(
            second,
            format!("proxy.legacy is true here and at '{}'; only one server can take over", first.name),
        );
    }
    let mut seen: HashSet<&str> = HashSet::new();
    for entry in entries {
        if !seen.insert(&entry.path)
            && let Some(first) = entries.iter().find(|first| first.path == entry.path)
        {
            return refuse(
                entry,
                format!(
                    "it has the same path as '{}' in line {}: {}; give one of them another proxy.path",
                    first.name, first.line, entry.path
                ),
            );
        }
        if !legacy.is_empty() && matches!(entry.path.as_str(), "mcp" | "sse") {
            return refuse(
                entry,
                format!(
                    "'{}' can't be a path while a server has proxy.legacy, which answers there; give it another proxy.path",
                    entry.path
                ),
            );
        }
    }
    Ok(())
}

/// Reads one server.
struct Reader<'r> {
    around: &'r Surroundings<'r>,
    server: &'r str,
    notes: &'r mut Vec<Note>,
}

impl Reader<'_> {
    fn place(&self, line: usize, key: &str) -> String {
        let key = if key.is_empty() { String::new() } else { format!(", {key}") };
        format!("{}:{line}: server '{}'{key}", self.around.path.display(), self.server)
    }

    fn refuse<T>(&self, line: usize, key: &str, why: impl AsRef<str>) -> Result<T, String> {
        Err(format!("{}: {}", self.place(line, key), why.as_ref()))
    }

    fn note(&mut self, level: log::Level, line: usize, key: &str, what: &str) {
        let text = format!("{}: {what}", self.place(line, key));
        self.notes.push(Note { level, text });
    }

    fn server(mut self, member: &Member) -> Result<Option<Entry>, String> {
        let found = self.object(Object::Server, &member.node)?;
        let is_off = found.switch("disabled") == Some(true) || found.switch("enabled") == Some(false);
        if is_off {
            self.note(log::Level::Info, member.line, "", "it is disabled and not published");
            return Ok(None);
        }
        let proxy = found.object(&mut self, Object::Proxy)?;
        let path = self.path(member, &proxy)?;
        let transport = self.transport(member, &found)?;
        let proxy = self.proxied(&proxy)?;
        let is_http = matches!(transport, Transport::Http { .. });
        if is_http && proxy.stdio != StdioKeys::default() {
            self.note(log::Level::Warn, member.line, "proxy.stdio", "it has no effect for a server at a URL");
        }
        Ok(Some(Entry { name: member.name.clone(), path, line: member.line, transport, proxy }))
    }

    /// The segment of the URL: `proxy.path`, or the name.
    fn path(&self, member: &Member, proxy: &Found<'_>) -> Result<String, String> {
        let (path, line, key) = match proxy.get("path") {
            Some(node) => (self.expanded(node, "proxy.path")?, node.line, "proxy.path"),
            None => (member.name.clone(), member.line, ""),
        };
        if is_segment(&path) {
            return Ok(path);
        }
        let rule = "a path has small letters, digits, '.', '_' and '-', begins with a letter or a digit, and is no longer than 64";
        self.refuse(
            line,
            key,
            format!(
                "'{path}' can't be in a URL as it is: {rule}; write \"proxy\": {{\"path\": \"{}\"}}",
                segment_like(&path)
            ),
        )
    }

    fn transport(&mut self, member: &Member, found: &Found<'_>) -> Result<Transport, String> {
        let (command, url) = (found.get("command"), found.get("url"));
        let is_stdio = match (command, url) {
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(_), Some(url)) => {
                return self.refuse(url.line, "url", "there is command and url; a server has one of them");
            }
            (None, None) => return self.refuse(member.line, "", "there is neither command nor url"),
        };
        if let Some((node, kind)) = found.get("type").and_then(|node| Some((node, node.text()?)))
            && matches!(kind, "stdio" | "local") != is_stdio
        {
            let has = if is_stdio { "command" } else { "url" };
            return self.refuse(node.line, "type", format!("'{kind}' does not go with {has}"));
        }
        if is_stdio { self.stdio(found) } else { self.http(found) }
    }

    fn stdio(&mut self, found: &Found<'_>) -> Result<Transport, String> {
        let mut command = vec![found.text(self, "command")?.unwrap_or_default()];
        if let Some(node) = found.get("args")
            && let Value::List(list) = &node.value
        {
            for argument in list {
                let text = argument.text().unwrap_or_default();
                let expanded = self.expand(text, argument.line, "args")?;
                if let Some(variable) = expanded.used.first() {
                    let what = format!(
                        "the value of {variable} will be in the command line, which everybody on this machine can read with ps; give the server a secret in env instead"
                    );
                    self.note(log::Level::Warn, argument.line, "args", &what);
                }
                command.push(expanded.text);
            }
        }
        let mut env = Vec::new();
        if let Some(file) = found.text(self, "envFile")? {
            let line = found.get("envFile").map_or(0, |node| node.line);
            let path = self.beside(&file);
            let text = (self.around.read)(&path).or_else(|why| self.refuse(line, "envFile", why))?;
            let read =
                lines(&text).or_else(|why| self.refuse(line, "envFile", format!("{}: {why}", path.display())))?;
            env.extend(read.into_iter().map(|(name, value)| (name, Some(value))));
        }
        for member in found.get("env").and_then(Node::members).unwrap_or_default() {
            let value = match &member.node.value {
                Value::Null => None,
                value => Some(self.expand(&value.written(), member.line, &format!("env.{}", member.name))?.text),
            };
            if member.name.is_empty()
                || member.name.contains(['=', '\0'])
                || value.as_ref().is_some_and(|v| v.contains('\0'))
            {
                return self.refuse(member.line, "env", "a variable has a name without '=', and no NUL character");
            }
            env.push((member.name.clone(), value));
        }
        let cwd = found.text(self, "cwd")?.map(|cwd| self.beside(&cwd));
        if let Some(key) = ["headers"].into_iter().find(|key| found.get(key).is_some()) {
            let line = found.get(key).map_or(0, |node| node.line);
            self.note(log::Level::Warn, line, key, "it has no effect for a server that speaks over stdio");
        }
        if command.iter().any(|word| word.contains('\0')) || command[0].is_empty() {
            return self.refuse(
                found.get("command").map_or(0, |node| node.line),
                "command",
                "there is no program to run",
            );
        }
        Ok(Transport::Stdio { command, env, cwd })
    }

    fn http(&mut self, found: &Found<'_>) -> Result<Transport, String> {
        let url = found.text(self, "url")?.unwrap_or_default();
        // As VS Code writes a Unix socket.
        let url = match url.strip_prefix("unix://") {
            Some(rest) => format!("unix:{}", rest.replacen('#', ":", 1)),
            None => url,
        };
        let mut headers = Vec::new();
        for member in found.get("headers").and_then(Node::members).unwrap_or_default() {
            let value = self.expand(&member.node.value.written(), member.line, &format!("headers.{}", member.name))?;
            headers.push((member.name.clone(), value.text));
        }
        for key in ["env", "envFile", "cwd", "args"] {
            if let Some(node) = found.get(key) {
                self.note(log::Level::Warn, node.line, key, "it has no effect for a server at a URL");
            }
        }
        Ok(Transport::Http { url, headers })
    }

    fn proxied(&mut self, proxy: &Found<'_>) -> Result<Proxied, String> {
        let allow = match proxy.get("allow") {
            None => None,
            Some(_) => {
                let allow = proxy.object(self, Object::Allow)?;
                Some(ServerRulesText {
                    users: allow.texts("users"),
                    patterns: allow.texts("patterns"),
                    groups: allow.texts("groups"),
                    providers: allow.texts("providers"),
                })
            }
        };
        let (stdio, timeouts) = (proxy.object(self, Object::Stdio)?, proxy.object(self, Object::Timeouts)?);
        Ok(Proxied {
            title: proxy.text(self, "title")?,
            description: proxy.text(self, "description")?,
            allow,
            is_legacy: proxy.switch("legacy") == Some(true),
            stdio: StdioKeys {
                is_shared: stdio.text(self, "mode")?.map(|mode| mode == "shared"),
                user: stdio.text(self, "user")?,
                max_children: stdio.number("maxChildren").and_then(|n| values::count(n).ok()),
                spare: stdio.number("spare").and_then(|n| values::count_or_none(n).ok()),
                idle_timeout: stdio.text(self, "idleTimeout")?.and_then(|text| values::duration(&text).ok()),
                memory: stdio.text(self, "memory")?.and_then(|text| values::size(&text).ok()),
            },
            bearer_token: proxy.text(self, "bearerToken")?,
            connect_timeout: timeouts.text(self, "connect")?.and_then(|text| values::duration(&text).ok()),
            response_timeout: timeouts.text(self, "response")?.and_then(|text| values::duration(&text).ok()),
            max_requests: proxy.number("maxRequests").and_then(|n| values::count(n).ok()),
        })
    }

    /// The members of an object that have an effect, checked against the table of keys.
    fn object<'d>(&mut self, object: Object, node: &'d Node) -> Result<Found<'d>, String> {
        let path = |name: &str| match object.path() {
            "" => name.to_string(),
            of => format!("{of}.{name}"),
        };
        let Some(members) = node.members() else {
            return self.refuse(
                node.line,
                object.path(),
                format!("an object is expected, but this is {}", node.kind()),
            );
        };
        let mut found = Found { object, members: Vec::new() };
        for member in members {
            let name = path(&member.name);
            let Some(key) = keys::find(object, &member.name) else {
                self.unknown(object, member, &name)?;
                continue;
            };
            if let Some(why) = wrong(key.kind, &member.node) {
                return self.refuse(member.line, &name, why);
            }
            if found.get(key.name).is_some() {
                return self.refuse(
                    member.line,
                    &name,
                    format!("it means the same as {}, which is there too", key.name),
                );
            }
            found.members.push((key, &member.node));
        }
        Ok(found)
    }

    /// A key that has no effect here.
    fn unknown(&mut self, object: Object, member: &Member, name: &str) -> Result<(), String> {
        let passed = PASSED.iter().find(|(key, _)| object == Object::Server && *key == member.name);
        match passed.map(|(_, passed)| passed) {
            Some(Passed::Quietly) => {
                self.note(
                    log::Level::Debug,
                    member.line,
                    name,
                    "it concerns the client that has this file, and is passed over",
                );
            }
            Some(Passed::Warn(why)) => {
                self.note(log::Level::Warn, member.line, name, &format!("it has no effect: {why}"))
            }
            Some(Passed::Refuse(why)) => return self.refuse(member.line, name, *why),
            None => {
                let near = nearest(object, &member.name);
                let did_you_mean = near.as_ref().map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                // Only this program reads what is under `proxy`, and a misspelt rule would let everybody in.
                if object != Object::Server || near.is_some_and(|near| near.starts_with("proxy")) {
                    return self.refuse(member.line, name, format!("there is no such key{did_you_mean}"));
                }
                self.note(
                    log::Level::Warn,
                    member.line,
                    name,
                    &format!("no client and no version of this proxy has this key; it has no effect{did_you_mean}"),
                );
            }
        }
        Ok(())
    }

    fn expanded(&self, node: &Node, key: &str) -> Result<String, String> {
        let text = node.text().unwrap_or_default();
        Ok(self.expand_quietly(text, node.line, key)?.text)
    }

    fn expand_quietly(&self, text: &str, line: usize, key: &str) -> Result<Expanded, String> {
        expand(text, self.around.env, self.around.secrets).or_else(|why| self.refuse(line, key, why))
    }

    fn expand(&mut self, text: &str, line: usize, key: &str) -> Result<Expanded, String> {
        if looks_unexpanded(text) {
            let what = format!("'{text}' stays as it is; to put in the variable, write ${{{}}}", &text[1..]);
            self.note(log::Level::Warn, line, key, &what);
        }
        self.expand_quietly(text, line, key)
    }

    /// A path that starts at the directory of the file.
    fn beside(&self, path: &str) -> PathBuf {
        self.around.path.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// The keys of an object that have an effect, with values of the right type.
struct Found<'d> {
    object: Object,
    members: Vec<(&'static Key, &'d Node)>,
}

impl<'d> Found<'d> {
    fn get(&self, name: &str) -> Option<&'d Node> {
        self.members.iter().find(|(key, _)| key.name == name).map(|(_, node)| *node)
    }

    fn switch(&self, name: &str) -> Option<bool> {
        match self.get(name)?.value {
            Value::Switch(switch) => Some(switch),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Option<&'d str> {
        match &self.get(name)?.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn text(&self, reader: &mut Reader<'_>, name: &str) -> Result<Option<String>, String> {
        let Some(node) = self.get(name) else { return Ok(None) };
        let key = if self.object.path().is_empty() { name.into() } else { format!("{}.{name}", self.object.path()) };
        Ok(Some(reader.expand(&node.value.written(), node.line, &key)?.text))
    }

    fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name).map(|node| &node.value) {
            Some(Value::List(list)) => list.iter().filter_map(|node| node.text().map(String::from)).collect(),
            _ => Vec::new(),
        }
    }

    /// The object below this one; without any member if it is not there.
    fn object(&self, reader: &mut Reader<'_>, object: Object) -> Result<Found<'d>, String> {
        let name = object.path().rsplit('.').next().unwrap_or_default();
        match self.get(name) {
            Some(node) => reader.object(object, node),
            None => Ok(Found { object, members: Vec::new() }),
        }
    }
}
