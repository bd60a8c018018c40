//! SIGHUP: reads again what can change without a restart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use signal_hook::consts::SIGHUP;

use super::config::methods;
use super::config::providers::{ask_for_groups, configure_anew};
use super::config::servers::check_names;
use super::config::{issuers, passwords, servers};
use super::control::ReloadOrder;
use super::logs::Logs;
use super::publish::{Prepared, Publisher};
use crate::flags::{self, Invocation};
use crate::thread::spawn;
use crate::tls::acme::renewal::RetryTrigger;

/// Starts the thread that handles SIGHUP: it reads the servers file and the allow lists again, and retries a failed
/// certificate order.
/// Returns the way to order the same without a signal.
pub(super) fn reload_on_sighup(
    mut publisher: Publisher,
    retry: Option<Arc<RetryTrigger>>,
    logs: Logs,
) -> Result<Sender<ReloadOrder>, String> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGHUP]).map_err(|e| format!("signals can't be handled: {e}"))?;
    let (orders, received) = channel::<ReloadOrder>();
    let of_signals = orders.clone();
    spawn("reload signals", move || {
        for _ in signals.forever() {
            // Nobody waits for the answer to a signal.
            let _ = of_signals.send(channel().0);
        }
    })?;
    spawn("reload", move || {
        for answer in received {
            logs.reopen();
            // The thread has to be there for the next signal. The panic itself is in the log.
            let outcome = catch_unwind(AssertUnwindSafe(|| reload(&mut publisher)));
            let outcome =
                outcome.unwrap_or_else(|_| Err("internal error while reading again; please report it".into()));
            if let Err(e) = &outcome {
                log::error!(error = e.as_str(); "SIGHUP: nothing has changed, since something can't be read again");
            }
            if let Some(retry) = &retry {
                retry.retry();
            }
            let _ = answer.send(outcome);
        }
    })?;
    Ok(orders)
}

/// All that can change without a restart changes, or nothing does.
fn reload(publisher: &mut Publisher) -> Result<String, String> {
    let settings = match flags::of_process()? {
        Invocation::Serve(settings) | Invocation::Demo(settings) => settings,
        _ => return Ok("there is nothing to read again".into()),
    };
    let mut providers = configure_anew(&settings)?;
    let issuers = issuers::configure(&settings, &providers)?;
    let (passwords, groups) = (passwords::configure(&settings)?, passwords::groups(&settings)?);
    let prepared = match settings.servers.is_some() {
        true => {
            let (servers, notes) = servers::configure(&settings, &methods(&settings, &providers, &issuers))?;
            let prepared = publisher.prepare(servers)?;
            notes.iter().for_each(|note| log::log!(note.level, "{}", note.text));
            Some(prepared)
        }
        false => None,
    };
    let servers = prepared.as_ref().map_or(&publisher.current, Prepared::servers);
    check_names(servers, &issuers)?;
    ask_for_groups(&mut providers, servers);
    if settings.htpasswd_file.is_some() {
        let replaced = publisher.login.replace_passwords(&passwords, groups);
        replaced.map_err(|e| format!("the passwords can't be stored: {e}"))?;
    }
    // From here on nothing can fail.
    publisher.login.providers.replace_rules(&providers);
    publisher.login.issuers.replace(issuers);
    if let Some(prepared) = prepared {
        publisher.publish(prepared);
    }
    let has_files =
        settings.servers.is_some() || settings.htpasswd_file.is_some() || settings.trusted_issuers.is_some();
    let said = match (providers.is_empty(), has_files) {
        (true, false) => "no provider is configured, so there are no lists of who may sign in",
        (false, false) => "the lists of who may sign in have been read again",
        _ => "the servers file and the lists of who may sign in have been read again",
    };
    let said = format!("{said}; other changed settings need a restart");
    log::info!("SIGHUP: {said}");
    publisher.recheck_streams();
    Ok(said)
}
