//! Batches from one lane to another: bounded, never waiting.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crossbeam_queue::ArrayQueue;
use futures_util::Stream;
use futures_util::task::AtomicWaker;

struct Shared<T> {
    queue: ArrayQueue<T>,
    waker: AtomicWaker,
    refused: AtomicU64,
}

/// A bounded queue between two lanes, for `capacity` batches. The receiving actor's factory keeps the receiver and
/// follows a clone of it in `started` ([`Cx::follow`](crate::Cx::follow)), so that what waits survives a restart.
pub fn handover<T: Send>(capacity: usize) -> (HandoverSender<T>, HandoverReceiver<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity.max(1)),
        waker: AtomicWaker::new(),
        refused: AtomicU64::new(0),
    });
    (HandoverSender(Arc::clone(&shared)), HandoverReceiver(shared))
}

/// The sending end.
pub struct HandoverSender<T>(Arc<Shared<T>>);

/// The receiving end: a stream that never ends. Clones share the queue; the one that was polled last is woken.
pub struct HandoverReceiver<T>(Arc<Shared<T>>);

impl<T: Send> HandoverSender<T> {
    /// Hands a batch over, or gives it back when the queue is full: the caller counts its packets.
    pub fn push(&self, batch: T) -> Result<(), T> {
        match self.0.queue.push(batch) {
            Ok(()) => {
                self.0.waker.wake();
                Ok(())
            }
            Err(batch) => {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                Err(batch)
            }
        }
    }

    /// Batches refused so far.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Batches that wait.
    pub fn depth(&self) -> usize {
        self.0.queue.len()
    }
}

impl<T: Send> HandoverReceiver<T> {
    /// The next batch, if one waits.
    pub fn pop(&self) -> Option<T> {
        self.0.queue.pop()
    }
}

impl<T: Send> Stream for HandoverReceiver<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(batch) = self.0.queue.pop() {
            return Poll::Ready(Some(batch));
        }
        self.0.waker.register(task.waker());
        // A push between the look and the registration woke nobody.
        match self.0.queue.pop() {
            Some(batch) => Poll::Ready(Some(batch)),
            None => Poll::Pending,
        }
    }
}

impl<T> Clone for HandoverSender<T> {
    fn clone(&self) -> Self {
        HandoverSender(Arc::clone(&self.0))
    }
}

impl<T> Clone for HandoverReceiver<T> {
    fn clone(&self) -> Self {
        HandoverReceiver(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for HandoverSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandoverSender")
    }
}

impl<T> fmt::Debug for HandoverReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandoverReceiver")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    #[test]
    fn a_full_handover_gives_the_batch_back_and_keeps_the_order() {
        let (sender, mut receiver) = handover(2);

        assert_eq!(sender.push(1), Ok(()));
        assert_eq!(sender.push(2), Ok(()));
        assert_eq!(sender.push(3), Err(3));

        assert_eq!(receiver.next().now_or_never(), Some(Some(1)));
        assert_eq!(receiver.next().now_or_never(), Some(Some(2)));
        assert_eq!(receiver.next().now_or_never(), None);
        assert_eq!(sender.refused(), 1);
    }
}
