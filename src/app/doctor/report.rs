//! What has been found, and how it is printed.

use std::fmt::Write;

use serde_json::{Value, json};

use super::clients::{KnownClient, Place};
use super::findings::{Finding, NOT_PUBLIC, Severity};
use crate::observe::log::is_bidi_control;

/// Longest text of a stranger in a line, in characters.
const MAX_SHOWN: usize = 200;

/// A finding as it was met.
pub(super) struct Problem {
    pub(super) finding: &'static Finding,
    step: &'static str,
    /// What was seen.
    seen: String,
    /// The clients that don't get past it.
    fails: Vec<&'static KnownClient>,
    /// What to do here, where that is known more exactly than in general.
    change: Option<String>,
}

impl Problem {
    fn change(&self) -> &str {
        self.change.as_deref().unwrap_or(self.finding.change)
    }
}

/// A line of the report.
enum Line {
    Good { step: &'static str, text: String },
    Problem(usize),
}

/// Everything that was found, in its order.
pub(super) struct Report {
    url: String,
    clients: Vec<&'static KnownClient>,
    lines: Vec<Line>,
    problems: Vec<Problem>,
    /// Client ids that were registered and can't be taken back.
    left: Vec<String>,
    /// Why not all steps were taken.
    stopped: Option<&'static str>,
    /// The user has named the clients.
    is_chosen: bool,
}

impl Report {
    /// The report on `url` for `clients`, which the user has named if `is_chosen`.
    pub(super) fn new(url: String, clients: Vec<&'static KnownClient>, is_chosen: bool) -> Report {
        Report { url, clients, lines: Vec::new(), problems: Vec::new(), left: Vec::new(), stopped: None, is_chosen }
    }

    /// How much has been found so far.
    pub(super) fn mark(&self) -> (usize, usize) {
        (self.lines.len(), self.problems.len())
    }

    /// Forgets what was found since: a step that was cut short finds fault with what is right.
    pub(super) fn forget_since(&mut self, (lines, problems): (usize, usize)) {
        self.lines.truncate(lines);
        self.problems.truncate(problems);
    }

    /// Not all steps are taken.
    pub(super) fn stop(&mut self, reason: &'static str) {
        self.stopped.get_or_insert(reason);
    }

    /// Clients that run at their vendor are left out, unless the user has named them.
    pub(super) fn leave_out_vendors(&mut self, finding: &'static Finding, seen: String) {
        if !self.is_chosen {
            self.clients.retain(|client| client.place != Place::Cloud);
            self.found("address", finding, seen);
        } else if self.clients.iter().any(|client| client.place == Place::Cloud) {
            self.found("address", &NOT_PUBLIC, seen);
        }
    }

    /// The clients that are looked at.
    pub(super) fn clients(&self) -> Vec<&'static KnownClient> {
        self.clients.clone()
    }

    /// A step that went well.
    pub(super) fn good(&mut self, step: &'static str, text: impl Into<String>) {
        self.lines.push(Line::Good { step, text: plain(&text.into()) });
    }

    /// A finding; which clients fail is what its table says.
    pub(super) fn found(&mut self, step: &'static str, finding: &'static Finding, seen: impl Into<String>) {
        let fails = self.clients.iter().copied().filter(|client| (finding.fails)(client)).collect();
        self.add(step, finding, seen.into(), fails);
    }

    /// A finding for certain clients, of those that are looked at.
    pub(super) fn found_for(
        &mut self,
        step: &'static str,
        finding: &'static Finding,
        seen: impl Into<String>,
        clients: &[&'static KnownClient],
    ) {
        let fails = self.clients.iter().copied().filter(|client| clients.contains(client)).collect();
        self.add(step, finding, seen.into(), fails);
    }

    /// Says of what was found last what to do here.
    pub(super) fn advise(&mut self, change: &str) {
        if let Some(problem) = self.problems.last_mut() {
            problem.change = Some(plain(change));
        }
    }

    fn add(&mut self, step: &'static str, finding: &'static Finding, seen: String, fails: Vec<&'static KnownClient>) {
        let is_known = |problem: &Problem| std::ptr::eq(problem.finding, finding) && problem.step == step;
        if let Some(known) = self.problems.iter_mut().find(|problem| is_known(problem)) {
            // The first of a kind is shown; what follows only adds clients.
            known.fails.extend(fails.into_iter().filter(|client| !known.fails.contains(client)).collect::<Vec<_>>());
            return;
        }
        self.lines.push(Line::Problem(self.problems.len()));
        self.problems.push(Problem { finding, step, seen: plain(&seen), fails, change: None });
    }

    /// Leaves a secret out of everything that servers have said.
    pub(super) fn hide(&mut self, secret: Option<&str>) {
        let Some(secret) = secret else { return };
        let hide = |text: &mut String| *text = text.replace(secret, "…");
        for problem in &mut self.problems {
            hide(&mut problem.seen);
            problem.change.iter_mut().for_each(hide);
        }
        self.left.iter_mut().for_each(hide);
        for line in &mut self.lines {
            if let Line::Good { text, .. } = line {
                hide(text);
            }
        }
    }

    /// Has this been found?
    pub(super) fn has(&self, finding: &'static Finding) -> bool {
        self.problems.iter().any(|problem| std::ptr::eq(problem.finding, finding))
    }

    /// A client was registered and stays.
    pub(super) fn stays(&mut self, client_id: &str) {
        self.left.push(plain(client_id));
    }

    /// Would `client` fail?
    pub(super) fn fails(&self, client: &KnownClient) -> bool {
        self.problems.iter().any(|problem| problem.fails.iter().any(|failing| failing.name == client.name))
    }

    /// 0 if every client gets through, 2 if one does not or the server is not safe, 1 for warnings if `is_strict`.
    pub(super) fn exit_code(&self, is_strict: bool) -> u8 {
        let is_failure = |p: &Problem| p.finding.severity == Severity::Failure || !p.fails.is_empty();
        match () {
            () if self.problems.iter().any(is_failure) => 2,
            () if is_strict && self.problems.iter().any(|p| p.finding.severity == Severity::Warning) => 1,
            () => 0,
        }
    }

    /// The report for a person.
    pub(super) fn text(&self) -> String {
        let mut out = format!("{}\n\n", self.url);
        for line in &self.lines {
            match line {
                Line::Good { step, text } => push(&mut out, "ok", step, text),
                Line::Problem(at) => self.problem(&mut out, &self.problems[*at]),
            }
        }
        out.push('\n');
        if let Some(reason) = self.stopped {
            let _ = writeln!(out, "The steps after this one were not looked at: {reason}.\n");
        }
        self.verdicts(&mut out);
        if !self.left.is_empty() {
            let clients = match self.left.len() {
                1 => "One registered client stays".to_string(),
                count => format!("{count} registered clients stay"),
            };
            let _ = writeln!(
                out,
                "\n{clients} there, since the server offers no way to remove them (RFC 7592). Nobody can use them without a sign-in, and mcp-auth-proxy forgets them after 30 days."
            );
        }
        out
    }

    /// What is said of each client, those of one fate together.
    fn verdicts(&self, out: &mut String) {
        let mut fates: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
        for client in &self.clients {
            let codes = self.codes(client);
            match fates.iter_mut().find(|(known, _)| *known == codes) {
                Some((_, titles)) => titles.push(client.title),
                None => fates.push((codes, vec![client.title])),
            }
        }
        // Those that fail come last, where one looks first.
        fates.sort_by_key(|(codes, _)| codes.len());
        for (codes, titles) in fates {
            let whom = if titles.len() == self.clients.len() && titles.len() > 1 {
                "Every client".into()
            } else {
                titles.join(", ")
            };
            let verdict = match codes.as_slice() {
                [] if self.stopped.is_some() => "as far as was looked at, nothing is wrong".to_string(),
                [] => "as far as the sign-in, nothing is wrong".to_string(),
                codes => format!("fails, because of {}", codes.join(", ")),
            };
            let _ = writeln!(out, "{whom}: {verdict}.");
        }
    }

    fn problem(&self, out: &mut String, problem: &Problem) {
        let word = match problem.finding.severity {
            _ if !problem.fails.is_empty() => "fail",
            Severity::Failure => "fail",
            Severity::Warning => "warn",
            Severity::Note => "note",
        };
        push(out, word, problem.step, &problem.seen);
        let names: Vec<&str> = problem.fails.iter().map(|client| client.title).collect();
        let whom = match names.len() {
            0 => String::new(),
            n if n == self.clients.len() && n > 1 => " (every client)".into(),
            _ => format!(" ({})", names.join(", ")),
        };
        let _ = writeln!(out, "      {}: {}{whom}", problem.finding.code, problem.finding.means);
        let _ = writeln!(out, "      What to do: {}", problem.change());
    }

    fn codes(&self, client: &KnownClient) -> Vec<&'static str> {
        let concerns = |p: &&Problem| p.fails.iter().any(|failing| failing.name == client.name);
        let mut codes: Vec<&str> = self.problems.iter().filter(concerns).map(|p| p.finding.code).collect();
        codes.dedup();
        codes
    }

    /// The report for a program.
    pub(super) fn json(&self) -> Value {
        let line = |line: &Line| match line {
            Line::Good { step, text } => json!({"step": step, "result": "ok", "seen": text}),
            Line::Problem(at) => {
                let problem = &self.problems[*at];
                let fails: Vec<&str> = problem.fails.iter().map(|client| client.name).collect();
                let severity = if fails.is_empty() { problem.finding.severity } else { Severity::Failure };
                json!({
                    "step": problem.step, "result": severity.word(), "finding": problem.finding.code,
                    "seen": problem.seen, "means": problem.finding.means, "change": problem.change(), "fails": fails,
                })
            }
        };
        let client = |client: &&KnownClient| json!({"client": client.name, "title": client.title, "fails": self.fails(client), "findings": self.codes(client)});
        json!({
            "url": self.url,
            "steps": self.lines.iter().map(line).collect::<Vec<_>>(),
            "clients": self.clients.iter().map(client).collect::<Vec<_>>(),
            "left_registered": self.left,
            "stopped": self.stopped,
        })
    }
}

fn push(out: &mut String, word: &str, step: &str, text: &str) {
    let _ = writeln!(out, "{word:<5} {step:<14} {text}");
}

/// A text that may be a stranger's, for a terminal: one line, not too long.
fn plain(text: &str) -> String {
    let is_odd = |c: char| {
        c.is_control()
            || is_bidi_control(c)
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    let one_line: String = text.chars().map(|c| if is_odd(c) { ' ' } else { c }).collect();
    match one_line.char_indices().nth(MAX_SHOWN * 2) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

/// The beginning of a stranger's text, to be quoted.
pub(super) fn excerpt(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_SHOWN / 2) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
