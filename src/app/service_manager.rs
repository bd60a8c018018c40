//! What systemd is told: that the proxy is ready, that it is well, and that it stops (`Type=notify`, `WatchdogSec=`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

use super::healthcheck;
use crate::thread::spawn;

/// From then on the proxy does not answer itself, and need not.
static STOPS: AtomicBool = AtomicBool::new(false);

/// The proxy listens. If the unit has a watchdog, a thread asks the proxy for its health from now on, twice in each interval;
/// without a good answer systemd hears nothing, and restarts the proxy.
pub(super) fn is_ready(data_path: PathBuf) -> Result<(), String> {
    tell(&[NotifyState::Ready]);
    let Some(interval) = sd_notify::watchdog_enabled() else { return Ok(()) };
    spawn("watchdog", move || {
        while !STOPS.load(Ordering::Relaxed) {
            match healthcheck::ask(&data_path) {
                Ok(()) => tell(&[NotifyState::Watchdog]),
                Err(_) if STOPS.load(Ordering::Relaxed) => {}
                Err(why) => {
                    log::error!(reason = why.as_str(); "the proxy does not answer itself; if that goes on, systemd restarts it (WatchdogSec)")
                }
            }
            std::thread::sleep(interval / 2);
        }
    })
}

/// The proxy has begun to stop.
pub(super) fn stops() {
    STOPS.store(true, Ordering::Relaxed);
    tell(&[NotifyState::Stopping]);
}

/// Does nothing unless systemd, or who stands in for it, has said where to send it.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        log::warn!(error:% = e; "the service manager can't be told how the proxy is (NOTIFY_SOCKET)");
    }
}
