//! Interruption: the labs of this process are torn down before it ends.

use std::{
    io::{Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, Once, OnceLock, Weak,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::lab::Shared;

static LABS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());
static PIPE: OnceLock<OwnedFd> = OnceLock::new();
static PIPE_FD: AtomicI32 = AtomicI32::new(-1);
static EXPECTED: AtomicBool = AtomicBool::new(false);
static ARRIVED: AtomicBool = AtomicBool::new(false);

pub(crate) fn register(lab: &Arc<Shared>) -> Result<()> {
    let mut labs = LABS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    labs.retain(|lab| lab.strong_count() > 0);
    labs.push(Arc::downgrade(lab));
    drop(labs);
    install()
}

/// Installs the handlers for SIGINT, SIGTERM and SIGHUP, once in a process.
///
/// Call it before the first lab when an interruption should already be orderly while programs are being built.
pub fn install() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| outcome = try_install());
    outcome
}

fn try_install() -> Result<()> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    PIPE_FD.store(writer.as_raw_fd(), Ordering::Release);
    let _kept = PIPE.set(writer);
    std::thread::Builder::new().name("lab-signals".into()).spawn(move || watch(reader))?;
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: `note` only calls write(2) on a descriptor that lives as long as the process; that is
        // async-signal-safe, and no other code of this process installs handlers for these signals.
        #[allow(unsafe_code)]
        unsafe {
            sigaction(signal, &action)?;
        }
    }
    Ok(())
}

extern "C" fn note(signal: nix::libc::c_int) {
    let byte = [u8::try_from(signal).unwrap_or(0)];
    // SAFETY: write(2) is async-signal-safe, the buffer is one byte on this stack, and the descriptor is never closed.
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::write(PIPE_FD.load(Ordering::Acquire), byte.as_ptr().cast(), 1);
    }
}

fn watch(reader: OwnedFd) {
    let mut reader = std::fs::File::from(reader);
    let mut byte = [0_u8; 1];
    while let Ok(1) = reader.read(&mut byte) {
        if EXPECTED.load(Ordering::Acquire) && !ARRIVED.swap(true, Ordering::AcqRel) {
            continue;
        }
        let _unheard = writeln!(std::io::stderr(), "\ninterrupted: cleaning up");
        let labs: Vec<_> = {
            let guard = LABS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            guard.iter().filter_map(Weak::upgrade).collect()
        };
        for lab in labs {
            lab.tear_down_for_signal();
        }
        std::process::exit(128 + i32::from(byte[0]));
    }
}

/// Blocks until the process is interrupted, and then returns instead of ending it. A second interruption ends it.
pub fn wait_for_interrupt() -> Result<()> {
    install()?;
    EXPECTED.store(true, Ordering::Release);
    while !ARRIVED.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A thread that works in a lab which is being torn down after an interruption rests here until the process ends.
pub fn rest_when_interrupted() {
    let closing = || {
        let labs = LABS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        labs.iter().filter_map(Weak::upgrade).any(|lab| lab.is_closing_for_signal())
    };
    while closing() {
        std::thread::sleep(Duration::from_millis(50));
    }
}
