//! The sandbox's first process.

/// The entry point of the sandbox's first process.
pub fn sandbox_init_main(control: i32) -> ! {
    let _ = control;
    crate::sys::exit_now(1)
}
