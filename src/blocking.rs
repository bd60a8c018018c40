//! The word of a thread that it is about to wait for something that may take long: a slow server, a slow client, the
//! disk, a password hash. Whoever waits says so, whoever runs the thread hears it, and neither knows the other.

use std::cell::RefCell;

thread_local! {
    static LISTENER: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// This thread may be busy for long from here on.
pub fn announce() {
    if let Some(listener) = LISTENER.take() {
        listener();
    }
}

/// Has `listener` called at this thread's next announcement, once.
pub fn listen(listener: impl FnOnce() + 'static) {
    LISTENER.set(Some(Box::new(listener)));
}
