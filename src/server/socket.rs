//! A client's socket, which tells that its client has left although nothing is read from it.
//!
//! hyper notices the end of what a client sends only where no byte of it is left to read, and reads nothing
//! more while it writes an answer: one that sent a line's end or a second request after its request would
//! leave unseen.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Of the events that Linux tells of a socket, this asks for the end of what its peer sends alone.
#[cfg(target_os = "linux")]
const END: Interest = Interest::PRIORITY;
/// Elsewhere a connection that broke is told.
#[cfg(not(target_os = "linux"))]
const END: Interest = Interest::ERROR;

pub struct Socket {
    read: Arc<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

/// The same socket, to be watched.
pub struct Peer(Arc<OwnedReadHalf>);

impl Socket {
    pub fn new(stream: TcpStream) -> (Self, Peer) {
        let (read, write) = stream.into_split();
        let read = Arc::new(read);
        let peer = Peer(Arc::clone(&read));
        (Self { read, write }, peer)
    }
}

impl Peer {
    /// Until it has closed its half of the connection, or all of it.
    pub async fn left(&self) {
        // An error: the socket cannot be watched, so nobody is there.
        let _ = self.0.ready(END).await;
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream: &TcpStream = (*self.read).as_ref();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // It is asked again when there is something.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

// Without vectored writes: what a token takes is copied together sooner than the kernel gathers it.
impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
