//! Random sequences of what happens to grants, beside a small model of what should: authorize, redeem, replay, refresh
//! with any token that was ever given out (a race, a lost answer and a thief are that), use, revoke, restart, and time.
//!
//! `GRANTS_MODEL_RUNS` is how many sequences (60), `GRANTS_MODEL_SEED` where they begin.

use std::sync::{Arc, Mutex};

use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::flags::Settings;
use mcp_auth_proxy::store::rows::{Grant, Phase};
use mcp_auth_proxy::tokens::Secret;
use mcp_auth_proxy::tokens::access::AccessToken;

use crate::support::disk::{Disk, open_with};
use crate::support::eventually;
use crate::support::flow::{Client, REDIRECT, Tokens, call, encode, tokens};
use crate::support::local::Local;
use crate::support::proxy::PASSWORD;
use crate::support::random::Random;
use crate::support::wire::Transport;

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// One refresh token that was given out, and the access tokens that came with it.
struct Node {
    parent: Option<usize>,
    made: u64,
    /// When its parent was first exchanged.
    rotated: u64,
    is_replaced: bool,
    refresh: String,
    /// With their ends.
    access: Vec<(String, u64)>,
}

/// What should become of one grant.
struct Model {
    code: String,
    nodes: Vec<Node>,
    newest: usize,
    is_seen: bool,
    is_alive: bool,
    begun: u64,
    /// When it ends by itself.
    ends: u64,
}

impl Model {
    fn ends_at(begun: u64, now: u64) -> u64 {
        (now + 30 * DAY).min(begun + 180 * DAY)
    }

    /// What a refresh with the token of `node` should lead to: the node whose tokens come back, which may be a new one.
    fn refresh(&mut self, node: usize, now: u64) -> Option<usize> {
        if !self.is_alive || now >= self.ends {
            return None;
        }
        let newest = &self.nodes[self.newest];
        let (parent, rotated) = if node == self.newest {
            self.ends = Model::ends_at(self.begun, now);
            (Some(node), now)
        } else if newest.parent != Some(node) {
            self.is_alive = false;
            return None;
        } else if now <= newest.made + MINUTE {
            return Some(self.newest);
        } else if !self.is_seen && now <= newest.rotated + DAY {
            let (parent, rotated) = (newest.parent, newest.rotated);
            self.nodes[self.newest].is_replaced = true;
            (parent, rotated)
        } else {
            self.is_alive = false;
            return None;
        };
        self.nodes.push(Node {
            parent,
            made: now,
            rotated,
            is_replaced: false,
            refresh: String::new(),
            access: Vec::new(),
        });
        (self.newest, self.is_seen) = (self.nodes.len() - 1, false);
        Some(self.newest)
    }

    fn is_good(&self, node: usize, end: u64, now: u64) -> bool {
        self.is_alive && now < end && !self.nodes[node].is_replaced
    }
}

struct World {
    app: Option<Local>,
    disk: Arc<Mutex<Disk>>,
    clock: Arc<Clock>,
    secret: Secret,
    client: String,
    grants: Vec<Model>,
    /// What was done, for whoever reads a failure.
    done: Vec<String>,
}

impl World {
    fn new() -> World {
        let (disk, clock) = (Arc::default(), Arc::new(Clock::manual(1_800_000_000)));
        let mut world = World {
            app: None,
            disk,
            clock,
            secret: Secret::generate(),
            client: String::new(),
            grants: Vec::new(),
            done: Vec::new(),
        };
        world.restart();
        world.client = Client::public(world.app()).id;
        world
    }

    fn restart(&mut self) {
        self.app = None;
        let settings = Settings { password: Some(PASSWORD.into()), ..Settings::default() };
        self.app = Some(open_with(settings, &self.disk, &self.secret, &self.clock).unwrap());
    }

    fn app(&self) -> &Local {
        self.app.as_ref().unwrap()
    }

    fn client(&self) -> Client<'_, Local> {
        Client { transport: self.app(), id: self.client.clone(), secret: None, redirect: REDIRECT.into() }
    }

    fn authorize(&mut self) {
        let now = self.clock.now();
        let (code, first) = {
            let client = self.client();
            let code = client.code();
            let first = tokens(&client.redeem(&code));
            (code, first)
        };
        let end = now + first.expires_in;
        let node = Node {
            parent: None,
            made: now,
            rotated: now,
            is_replaced: false,
            refresh: first.refresh,
            access: vec![(first.access, end)],
        };
        self.grants.push(Model {
            code,
            nodes: vec![node],
            newest: 0,
            is_seen: true,
            is_alive: true,
            begun: now,
            ends: Model::ends_at(now, now),
        });
    }

    fn refresh(&mut self, grant: usize, node: usize) {
        let now = self.clock.now();
        let reply = self.client().refresh(&self.grants[grant].nodes[node].refresh);
        let expected = self.grants[grant].refresh(node, now);
        match expected {
            None => assert_eq!(reply.error(), "invalid_grant", "{}", self.story()),
            Some(expected) => {
                assert_eq!(reply.status, 200, "{}; {}", reply.text(), self.story());
                let Tokens { access, refresh, expires_in } = tokens(&reply);
                let known = &self.grants[grant].nodes[expected].refresh;
                assert!(known.is_empty() || *known == refresh, "another successor; {}", self.story());
                let is_new = self.grants.iter().flat_map(|g| &g.nodes).all(|n| n.refresh != refresh);
                assert_eq!(known.is_empty(), is_new, "{}", self.story());
                let node = &mut self.grants[grant].nodes[expected];
                node.refresh = refresh;
                node.access.push((access, now + expires_in));
            }
        }
    }

    fn use_access(&mut self, grant: usize, node: usize, which: usize) {
        let now = self.clock.now();
        let model = &self.grants[grant];
        let (access, end) = model.nodes[node].access[which].clone();
        let is_good = model.is_good(node, end, now);
        let status = call(self.app(), &access).status;
        assert_eq!(status, if is_good { 200 } else { 401 }, "{}", self.story());
        if is_good && node == model.newest && !model.is_seen {
            let id = AccessToken::verify(&access, &self.app().core().keys, now).unwrap().grant;
            eventually("it is noted that the token was seen", || {
                let row = self.app().core().state.get::<Grant>(id.as_str()).unwrap().unwrap();
                matches!(row.phase, Phase::Active { rotation, .. } if rotation.seen)
            });
            self.grants[grant].is_seen = true;
        }
    }

    fn revoke(&mut self, grant: usize, token: &str) {
        let form = encode(&[("client_id", &self.client), ("token", token)]);
        let fields = [("Content-Type", "application/x-www-form-urlencoded")];
        assert_eq!(self.app().send("POST", "/.idp/revoke", &fields, form.as_bytes()).status, 200, "{}", self.story());
        self.grants[grant].is_alive = false;
    }

    fn story(&self) -> String {
        format!("after:\n  {}", self.done.join("\n  "))
    }

    fn step(&mut self, random: &mut Random) {
        let kind = random.below(20);
        if self.grants.is_empty() || (kind == 0 && self.grants.len() < 3) {
            self.done.push("authorize".into());
            return self.authorize();
        }
        let grant = random.below(self.grants.len() as u64) as usize;
        // Mostly those that matter: the newest, and the few before it.
        let (count, back) = (self.grants[grant].nodes.len(), random.below(4) as usize);
        let node =
            if random.below(8) == 0 { random.below(count as u64) as usize } else { count - 1 - back.min(count - 1) };
        match kind {
            0..=7 => {
                self.done.push(format!("refresh grant {grant} with token {node}"));
                self.refresh(grant, node);
            }
            8..=11 => {
                let which = random.below(self.grants[grant].nodes[node].access.len() as u64) as usize;
                self.done.push(format!("use access token {which} of token {node} of grant {grant}"));
                self.use_access(grant, node, which);
            }
            12..=16 => {
                let steps = [1, 15, 59, 60, 61, 90, HOUR - 1, HOUR, DAY - 1, DAY, DAY + 1, 20 * DAY, 31 * DAY];
                // Long times are rare, or nothing would live.
                let reach = if random.below(6) == 0 { 13 } else { 8 };
                let seconds = steps[random.below(reach) as usize];
                self.done.push(format!("{seconds} s pass"));
                self.clock.advance(seconds);
            }
            17 | 18 => {
                self.done.push("restart".into());
                self.restart();
            }
            _ if random.below(3) == 0 => {
                let Node { refresh, access, .. } = &self.grants[grant].nodes[node];
                // An access token that has run out names nobody any more.
                let now = self.clock.now();
                let token = match &access[0] {
                    (token, end) if *end > now && random.below(2) == 0 => token.clone(),
                    _ => refresh.clone(),
                };
                self.done.push(format!("revoke grant {grant} by token {node}"));
                self.revoke(grant, &token);
            }
            _ => {
                self.done.push(format!("redeem the code of grant {grant} again"));
                let reply = self.client().redeem(&self.grants[grant].code);
                assert_eq!(reply.error(), "invalid_grant", "{}", self.story());
                // Within its minute it is known as a second use.
                if self.clock.now() < self.grants[grant].begun + MINUTE {
                    self.grants[grant].is_alive = false;
                }
            }
        }
    }
}

#[test]
fn grants_do_what_their_model_says() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (seed, runs) = (number("GRANTS_MODEL_SEED", 1), number("GRANTS_MODEL_RUNS", 60));
    let mut outcomes = [0; 3];
    for seed in seed..seed + runs {
        let (mut random, mut world) = (Random::new(seed), World::new());
        world.done.push(format!("GRANTS_MODEL_SEED={seed} GRANTS_MODEL_RUNS=1"));
        for _ in 0..60 {
            world.step(&mut random);
        }
        for grant in &world.grants {
            outcomes[0] += usize::from(grant.is_alive);
            outcomes[1] += usize::from(grant.nodes.iter().any(|n| n.is_replaced));
            outcomes[2] += grant.nodes.len();
        }
    }
    // The sequences reach what they are for.
    assert!(runs < 60 || outcomes.iter().all(|n| *n > 20), "alive, replaced, tokens: {outcomes:?}");
}
