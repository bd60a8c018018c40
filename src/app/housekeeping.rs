//! Background threads: cleanup, checks of upstream server, providers and streams, and reload on SIGHUP.

use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::SIGHUP;

use super::config::providers::configure_anew;
use crate::core::Core;
use crate::flags::{self, Invocation};
use crate::login::Login;
use crate::resource::open_streams::OpenStreams;
use crate::resource::stream_recheck;
use crate::thread::spawn;
use crate::tls::acme::renewal::RetryTrigger;
use crate::upstream::Upstream;

/// Pause between two removals of expired rows.
const COLLECT_EVERY: Duration = Duration::from_secs(3_600);
/// How often the clock is read, so that a jump is noticed even without requests. Unused upstream connections and open
/// streams are checked as often.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(30);
/// Pause between two checks of an MCP server that does not answer yet. It doubles from the first to the longest.
const FIRST_CHECK_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_CHECK_PAUSE: Duration = Duration::from_secs(60);

/// Checks the MCP server until it answers, and logs what is wrong with it until then.
pub(super) fn check_upstream(upstream: &dyn Upstream) {
    let (mut pause, mut told) = (FIRST_CHECK_PAUSE, None);
    while let Err(trouble) = upstream.check() {
        if told.as_ref() != Some(&trouble) {
            log::warn!(result = trouble.seen.as_str(); "{}", trouble.what);
            told = Some(trouble);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_CHECK_PAUSE);
    }
    match told {
        Some(_) => log::info!("the MCP server answers now"),
        None => log::debug!("the MCP server answers"),
    }
}

/// Starts the thread that removes expired rows, closes unused upstream connections, and notices jumps of the clock.
pub(super) fn run_housekeeping(core: Arc<Core>, upstream: Arc<dyn Upstream>) -> Result<(), String> {
    spawn("housekeeping", move || {
        let mut since_sweep = Duration::ZERO;
        loop {
            std::thread::sleep(LOOK_AT_CLOCK_EVERY);
            core.now();
            upstream.tidy();
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

/// Starts the thread that handles SIGHUP: it reads the allow lists again, and retries a failed certificate order.
pub(super) fn reload_on_sighup(
    login: Arc<Login>,
    streams: OpenStreams,
    retry: Option<Arc<RetryTrigger>>,
) -> Result<(), String> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGHUP]).map_err(|e| format!("signals can't be handled: {e}"))?;
    spawn("reload", move || {
        for _ in signals.forever() {
            reload(&login, &streams);
            if let Some(retry) = &retry {
                retry.retry();
            }
        }
    })
}

fn reload(login: &Login, streams: &OpenStreams) {
    let settings = match flags::of_process() {
        Ok(Invocation::Serve(settings) | Invocation::Demo(settings)) => settings,
        Ok(_) => return,
        Err(e) => {
            return log::error!(error = e.as_str(); "SIGHUP: the options can't be read again; nothing has changed");
        }
    };
    match configure_anew(&settings) {
        Ok(configs) if configs.is_empty() => {
            log::info!(
                "SIGHUP: no provider is configured, so there are no lists of who may sign in; other changed settings need a restart"
            );
        }
        Ok(configs) => {
            login.providers.replace_rules(&configs);
            log::info!(
                "SIGHUP: the lists of who may sign in have been read again; other changed settings need a restart"
            );
            stream_recheck::recheck_streams(login, streams);
        }
        Err(e) => {
            log::error!(error = e.as_str(); "SIGHUP: the lists of who may sign in can't be read again; nothing has changed")
        }
    }
}

/// Starts the thread that ends the streams of users who are no longer allowed. It is separate, since providers may be
/// slow to answer.
pub(super) fn watch_streams(login: Arc<Login>, streams: OpenStreams) -> Result<(), String> {
    spawn("streams", move || {
        loop {
            std::thread::sleep(LOOK_AT_CLOCK_EVERY);
            stream_recheck::recheck_streams(&login, &streams);
        }
    })
}
