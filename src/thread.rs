//! Threads with a name.

/// Starts a thread with a name. The error is one line.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map(drop).map_err(|e| format!("no thread could be started: {e}"))
}
