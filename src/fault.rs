//! Faults on demand, for the tests of what a panic leaves behind. A release build has none, and does not know the setting.

/// Environment variable with the name of the point.
#[cfg(debug_assertions)]
pub const SETTING: &str = "HOLDFAST_FAULT";

/// Panics here, once in the life of the process, when the tests ask for it by this name.
#[inline]
#[track_caller]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicBool, Ordering};
        static ARMED: AtomicBool = AtomicBool::new(true);
        if std::env::var_os(SETTING).is_some_and(|wanted| wanted == name) && ARMED.swap(false, Ordering::Relaxed) {
            panic!("a fault on demand: {name}");
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
