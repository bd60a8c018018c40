//! Background threads: cleanup, and checks of servers, providers and streams.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::core::Core;
use crate::login::Login;
use crate::resource::open_streams::OpenStreams;
use crate::resource::protected::Published;
use crate::resource::stream_recheck;
use crate::thread::spawn;
use crate::upstream::Upstream;

/// Pause between two removals of expired rows.
const COLLECT_EVERY: Duration = Duration::from_secs(3_600);
/// How often the clock is read, so that a jump is noticed even without requests. Unused upstream connections and open
/// streams are checked as often.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(30);
/// Pause between two checks of an MCP server that does not answer yet. It doubles from the first to the longest.
const FIRST_CHECK_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_CHECK_PAUSE: Duration = Duration::from_secs(60);

/// Checks the MCP server of this name until it answers, and logs what is wrong with it until then.
pub(super) fn check_upstream(server: &str, upstream: &Weak<dyn Upstream>) {
    let (mut pause, mut told) = (FIRST_CHECK_PAUSE, None);
    // A reload may have taken the server away meanwhile.
    while let Some(upstream) = upstream.upgrade()
        && let Err(trouble) = upstream.check()
    {
        drop(upstream);
        if told.as_ref() != Some(&trouble) {
            log::warn!(server = server, result = trouble.seen.as_str(); "{}", trouble.what);
            told = Some(trouble);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_CHECK_PAUSE);
    }
    match told {
        Some(_) => log::info!(server = server; "the MCP server answers now"),
        None => log::debug!(server = server; "the MCP server answers"),
    }
}

/// Starts the thread that removes expired rows, closes unused upstream connections, and notices jumps of the clock.
pub(super) fn run_housekeeping(core: Arc<Core>, published: Published) -> Result<(), String> {
    spawn("housekeeping", move || {
        let mut since_sweep = Duration::ZERO;
        loop {
            std::thread::sleep(LOOK_AT_CLOCK_EVERY);
            core.now();
            published.now().all().iter().for_each(|resource| resource.upstream.tidy());
            since_sweep += LOOK_AT_CLOCK_EVERY;
            if since_sweep >= COLLECT_EVERY {
                since_sweep = Duration::ZERO;
                if let Ok(removed @ 1..) = core.state.collect() {
                    log::debug!(removed = removed; "expired rows were removed from the store");
                }
            }
        }
    })
}

/// Starts the thread that checks regularly whether the providers can be reached.
pub(super) fn watch_providers(login: Arc<Login>) -> Result<(), String> {
    if login.providers.all().is_empty() {
        return Ok(());
    }
    spawn("providers", move || {
        loop {
            std::thread::sleep(login.providers.look());
        }
    })
}

/// Starts the thread that ends the streams of users who are no longer allowed. It is separate, since providers may be
/// slow to answer.
pub(super) fn watch_streams(login: Arc<Login>, streams: OpenStreams, published: Published) -> Result<(), String> {
    spawn("streams", move || {
        loop {
            std::thread::sleep(LOOK_AT_CLOCK_EVERY);
            stream_recheck::recheck_streams(&login, &streams, &published.now());
        }
    })
}
