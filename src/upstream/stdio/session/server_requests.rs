//! What children asked the client, and who may be answered.

use std::collections::VecDeque;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::mcp::message::Id;

/// ServerRequests that wait for the client, and of earlier children that it may still answer.
const MAX_ASKED: usize = 1_024;

/// What children asked the client and it has not answered. A late answer to an earlier child's question must not pass
/// for one to its successor's, which may have the same id: then the successor's goes by another.
#[derive(Default)]
pub(crate) struct ServerRequests {
    pub(super) open: VecDeque<ServerRequest>,
    /// Ids of server_requests whose child has gone.
    pub(super) stale: VecDeque<Id>,
    /// There may be more of those: the session is older than this process.
    pub(super) has_forgotten: bool,
    /// Sets new ids apart from those that were given before a restart.
    pub(super) epoch: String,
    pub(super) renamed: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct ServerRequest {
    /// As the client knows it.
    pub(super) id: Id,
    /// The id that the child gave it, as it was written, if the client knows another.
    pub(super) renamed_from: Option<String>,
}

impl ServerRequest {
    /// The id by which the client knows it, as it is written, if it is not the child's.
    pub(crate) fn renamed_to(&self) -> Option<String> {
        match (&self.renamed_from, &self.id) {
            (Some(_), Id::Text(text)) => Some(format!("\"{text}\"")),
            _ => None,
        }
    }
}

impl ServerRequests {
    /// Takes note of a question; the id by which the client is to know it, if not by `id`.
    pub(crate) fn ask(&mut self, id: &Id, raw_id: &str) -> Option<String> {
        let mut question = ServerRequest { id: id.clone(), renamed_from: None };
        if self.has_forgotten || self.stale.contains(id) {
            self.renamed += 1;
            question = ServerRequest {
                id: Id::Text(format!("mcp-auth-proxy:question:{}:{}", self.epoch, self.renamed)),
                renamed_from: Some(raw_id.into()),
            };
        }
        let new_id = question.renamed_to();
        self.add(question);
        new_id
    }

    pub(crate) fn add(&mut self, question: ServerRequest) {
        self.open.push_back(question);
        // The oldest is the one that nobody answers any more.
        if self.open.len() > MAX_ASKED {
            self.open.pop_front();
        }
    }

    /// The client answers; the question, if there is one.
    pub(crate) fn answered(&mut self, id: &Id) -> Option<ServerRequest> {
        if let Some(i) = self.stale.iter().position(|stale| stale == id) {
            self.stale.remove(i);
            return None;
        }
        let i = self.open.iter().position(|q| q.id == *id)?;
        self.open.remove(i)
    }

    /// The child wants no answer any more to the question that it knows by `id`.
    pub(crate) fn withdrawn(&mut self, id: &Id) -> Option<ServerRequest> {
        let is_own = |q: &ServerRequest| match &q.renamed_from {
            Some(raw) => serde_json::from_str::<Box<RawValue>>(raw).is_ok_and(|raw| Id::of(&raw).as_ref() == Some(id)),
            None => q.id == *id,
        };
        let i = self.open.iter().position(is_own)?;
        self.open.remove(i)
    }

    /// The child has gone; its server_requests, as the client would write their ids.
    pub(crate) fn leave(&mut self) -> Vec<String> {
        let left: Vec<ServerRequest> = self.open.drain(..).collect();
        self.stale.extend(left.iter().map(|q| q.id.clone()));
        self.stale.drain(..self.stale.len().saturating_sub(MAX_ASKED));
        left.iter()
            .map(|q| match &q.id {
                Id::Number(n) => n.to_string(),
                Id::Unusual(text) => text.clone(),
                Id::Text(text) => Value::from(text.as_str()).to_string(),
            })
            .collect()
    }
}
