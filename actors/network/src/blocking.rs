//! Asynchronous work for code that cannot wait for it: the last steps before exit.

use std::future::Future;
use std::io;

/// Runs `work` to its end on a thread with an event loop of its own, because the caller may be inside one. The thread
/// inherits the caller's network namespace.
pub(crate) fn run<F, R>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> io::Result<R>
where
    F: Future<Output = R>,
    R: Send + 'static,
{
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work()))
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
}
