//! The way from a session's actor to its socket: bounded in frames and in bytes, never waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// The most frames on the way to one node.
pub const MAX_FRAMES: usize = 256;
/// The most bytes on the way to one node; a single frame may be larger when nothing else is on the way.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The actor's end.
#[derive(Debug)]
pub struct LinkSender {
    frames: mpsc::Sender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

/// The socket's end.
#[derive(Debug)]
pub struct LinkReceiver {
    frames: mpsc::Receiver<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
    taken: usize,
}

/// The node does not read fast enough, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node does not read fast enough")]
pub struct Stalled;

/// Both ends of a link.
pub fn link() -> (LinkSender, LinkReceiver) {
    let (sender, receiver) = mpsc::channel(MAX_FRAMES);
    let bytes = Arc::new(AtomicUsize::new(0));
    (
        LinkSender { frames: sender, bytes: Arc::clone(&bytes) },
        LinkReceiver { frames: receiver, bytes, taken: 0 },
    )
}

impl LinkSender {
    /// Puts a frame on the way.
    ///
    /// # Errors
    /// [`Stalled`] when too much is on the way already; the frame is lost, so the session must end.
    pub fn send(&self, frame: Vec<u8>) -> Result<(), Stalled> {
        let size = frame.len();
        let waiting = self.bytes.load(Ordering::Relaxed);
        if waiting > 0 && waiting + size > MAX_BYTES {
            return Err(Stalled);
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
        self.frames.try_send(frame).map_err(|_| Stalled)
    }
}

impl LinkReceiver {
    /// The next frame; `None` when the actor has ended and everything was taken. A frame counts as on the way until the
    /// next one is asked for.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.bytes.fetch_sub(self.taken, Ordering::Relaxed);
        self.taken = 0;
        let frame = self.frames.recv().await?;
        self.taken = frame.len();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_in_order_and_the_end_is_seen() {
        let (sender, mut receiver) = link();
        sender.send(vec![1]).unwrap();
        sender.send(vec![2]).unwrap();
        drop(sender);

        assert_eq!(receiver.next().await, Some(vec![1]));
        assert_eq!(receiver.next().await, Some(vec![2]));
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn a_reader_that_stalls_is_noticed_by_frames_and_by_bytes() {
        let (small, _kept) = link();
        for _ in 0..MAX_FRAMES {
            small.send(vec![0]).unwrap();
        }
        let (large, mut reader) = link();
        large.send(vec![0; MAX_BYTES]).unwrap();

        assert_eq!(small.send(vec![0]), Err(Stalled));
        assert_eq!(large.send(vec![0]), Err(Stalled));
        // The frame that was taken counts until the reader comes back: it may be stuck in the socket.
        reader.next().await.unwrap();
        assert_eq!(large.send(vec![0]), Err(Stalled));
    }
}
