//! SIGHUP: reads again what can change without a restart.

use std::sync::Arc;

use signal_hook::consts::SIGHUP;

use super::config::methods;
use super::config::providers::{ask_for_groups, configure_anew};
use super::config::servers;
use super::publish::Publisher;
use crate::flags::{self, Invocation};
use crate::thread::spawn;
use crate::tls::acme::renewal::RetryTrigger;

/// Starts the thread that handles SIGHUP: it reads the servers file and the allow lists again, and retries a failed
/// certificate order.
pub(super) fn reload_on_sighup(mut publisher: Publisher, retry: Option<Arc<RetryTrigger>>) -> Result<(), String> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGHUP]).map_err(|e| format!("signals can't be handled: {e}"))?;
    spawn("reload", move || {
        for _ in signals.forever() {
            if let Err(e) = reload(&mut publisher) {
                log::error!(error = e.as_str(); "SIGHUP: nothing has changed, since something can't be read again");
            }
            if let Some(retry) = &retry {
                retry.retry();
            }
        }
    })
}

/// All that can change without a restart changes, or nothing does.
fn reload(publisher: &mut Publisher) -> Result<(), String> {
    let settings = match flags::of_process()? {
        Invocation::Serve(settings) | Invocation::Demo(settings) => settings,
        _ => return Ok(()),
    };
    let mut providers = configure_anew(&settings)?;
    if settings.servers.is_some() {
        let (servers, notes) = servers::configure(&settings, &methods(&settings, &providers))?;
        publisher.publish(servers)?;
        for note in notes {
            log::log!(note.level, "{}", note.text);
        }
    }
    ask_for_groups(&mut providers, &publisher.current);
    publisher.login.providers.replace_rules(&providers);
    match (providers.is_empty(), settings.servers.is_some()) {
        (true, false) => log::info!(
            "SIGHUP: no provider is configured, so there are no lists of who may sign in; other changed settings need a restart"
        ),
        (false, false) => log::info!(
            "SIGHUP: the lists of who may sign in have been read again; other changed settings need a restart"
        ),
        _ => log::info!(
            "SIGHUP: the servers file and the lists of who may sign in have been read again; other changed settings need a restart"
        ),
    }
    publisher.recheck_streams();
    Ok(())
}
