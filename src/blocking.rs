//! Tells the worker pool that a thread is about to block on something that may take long (a slow server, a slow client,
//! the disk, a password hash), so that the pool can start a replacement. The code that blocks calls [`announce`], the
//! pool calls [`listen`]; neither depends on the other.

use std::cell::RefCell;

thread_local! {
    static LISTENER: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Announces that this thread may be blocked for long from here on.
pub fn announce() {
    if let Some(listener) = LISTENER.take() {
        listener();
    }
}

/// Registers `listener`: the next [`announce`] on this thread calls it, once.
pub fn listen(listener: impl FnOnce() + 'static) {
    LISTENER.set(Some(Box::new(listener)));
}
