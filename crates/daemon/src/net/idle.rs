//! A stream that fails if nothing moves on it, and sooner if data is to be written and the peer takes
//! none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Wraps a stream: any byte that is read or written extends the deadline. While a write waits, only written bytes
/// count.
pub(super) struct Idle<S> {
    stream: S,
    limits: Limits,
    deadline: Pin<Box<Sleep>>,
    /// Time limit while a write waits.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

/// Time limits without any movement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// In either direction.
    pub(super) silence: Duration,
    /// Towards the peer, while there is data for it.
    pub(super) untaken: Duration,
}

impl<S> Idle<S> {
    pub(super) fn new(stream: S, limits: Limits) -> Self {
        Self {
            stream,
            limits,
            deadline: Box::pin(tokio::time::sleep(limits.silence)),
            write_deadline: None,
        }
    }

    fn moved(&mut self) {
        let deadline = Instant::now() + self.limits.silence;
        self.deadline.as_mut().reset(deadline);
    }

    fn written(&mut self) {
        self.write_deadline = None;
        self.moved();
    }

    /// The result while the peer takes nothing.
    fn untaken<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let limit = self.limits.untaken;
        let deadline = self
            .write_deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.pending(context)
    }

    /// The result while the stream itself is not ready.
    fn pending<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                this.moved();
                Poll::Ready(read)
            }
            Poll::Pending => this.pending(context),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write(context, bytes) {
            Poll::Ready(written) => {
                this.written();
                Poll::Ready(written)
            }
            Poll::Pending => this.untaken(context),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_flush(context) {
            Poll::Pending => this.untaken(context),
            Poll::Ready(done) => {
                this.write_deadline = None;
                Poll::Ready(done)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_shutdown(context) {
            Poll::Pending => this.untaken(context),
            Poll::Ready(done) => {
                this.write_deadline = None;
                Poll::Ready(done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: Limits = Limits {
        silence: Duration::from_secs(10),
        untaken: Duration::from_secs(3),
    };

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_times_out_and_one_that_moves_does_not() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut near = Idle::new(near, LIMITS);
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(9)).await;
            far.write_all(b"x").await.expect("there is room");
            assert_eq!(near.read_u8().await.expect("a byte is there"), b'x');
        }
        let error = near.read_u8().await.expect_err("nothing comes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_times_out() {
        let (_far, near) = tokio::io::duplex(4);
        let mut near = Idle::new(near, LIMITS);
        let started = Instant::now();
        let error = near.write_all(b"too much").await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(
            started.elapsed() < LIMITS.silence,
            "{:?}",
            started.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_sends_and_takes_nothing_times_out_too() {
        let (mut far, near) = tokio::io::duplex(4);
        let near = Idle::new(near, LIMITS);
        let (mut read, mut write) = tokio::io::split(near);
        let chatter = tokio::spawn(async move {
            while far.write_all(b"ping").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let reader = tokio::spawn(async move { while read.read_u8().await.is_ok() {} });
        let error = write
            .write_all(b"too much")
            .await
            .expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        reader.abort();
        chatter.abort();
    }
}
