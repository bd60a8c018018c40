//! Requests from the server to the client, and which of them may still be answered.

use std::collections::VecDeque;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::mcp::message::Id;

/// Maximum number of open requests, and also of stale ones from earlier processes.
const MAX_ASKED: usize = 1_024;

/// Server requests that the client has not answered. A new process may reuse the id of an earlier process's request.
/// Then the new request gets a different id, so that a late answer to the old one does not reach the new process.
#[derive(Default)]
pub(crate) struct ServerRequests {
    pub(super) open: VecDeque<ServerRequest>,
    /// Ids of requests whose process has ended.
    pub(super) stale: VecDeque<Id>,
    /// There may be more stale ids than are known here, because the session was restored from the store.
    pub(super) has_forgotten: bool,
    /// Random part of new ids, so that they differ from those given before a restart.
    pub(super) epoch: String,
    pub(super) renamed: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct ServerRequest {
    /// As the client knows it.
    pub(super) id: Id,
    /// The server's own id as raw JSON, if the client sees a different one.
    pub(super) renamed_from: Option<String>,
}

impl ServerRequest {
    /// The id that the client sees, as raw JSON, if it differs from the server's own.
    pub(crate) fn renamed_to(&self) -> Option<String> {
        match (&self.renamed_from, &self.id) {
            (Some(_), Id::Text(text)) => Some(format!("\"{text}\"")),
            _ => None,
        }
    }
}

impl ServerRequests {
    /// Records a request of the server. Returns the new id for the client, if `id` must be replaced.
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
        // Drop the oldest one: it is the least likely to be answered.
        if self.open.len() > MAX_ASKED {
            self.open.pop_front();
        }
    }

    /// Removes and returns the request that the client answers. `None` if it is unknown or its process has ended.
    pub(crate) fn answered(&mut self, id: &Id) -> Option<ServerRequest> {
        if let Some(i) = self.stale.iter().position(|stale| stale == id) {
            self.stale.remove(i);
            return None;
        }
        let i = self.open.iter().position(|q| q.id == *id)?;
        self.open.remove(i)
    }

    /// Removes and returns the request that the server cancels; `id` is the server's own id.
    pub(crate) fn withdrawn(&mut self, id: &Id) -> Option<ServerRequest> {
        let is_own = |q: &ServerRequest| match &q.renamed_from {
            Some(raw) => serde_json::from_str::<Box<RawValue>>(raw).is_ok_and(|raw| Id::of(&raw).as_ref() == Some(id)),
            None => q.id == *id,
        };
        let i = self.open.iter().position(is_own)?;
        self.open.remove(i)
    }

    /// Marks all open requests as stale, because their process has ended. Returns the ids that the client sees, as raw
    /// JSON.
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
