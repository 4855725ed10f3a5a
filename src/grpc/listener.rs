//! Connections, as they come: over TLS where that is configured, and served once they speak HTTP/2.
//!
//! Whoever connects and says nothing, or something else, holds nobody up: there are so many places for those who have not
//! spoken yet, and so many for the others, and where all are taken, the oldest that is not known to be anybody's gives way.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::tls::{Certificate, Tls};

/// Most connections at a time, and most that have not spoken yet; fewer where the process may not have so many files open.
const MAX_CONNECTIONS: usize = 1000;
/// Until TLS is agreed on and the client has begun to speak HTTP/2.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a connection that could not be taken: no more files may be open, for example.
const PAUSE: Duration = Duration::from_millis(100);
/// What each client of HTTP/2 sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where the service listens.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Arc<Tls>>,
    most: usize,
}

impl Listener {
    pub async fn bind(at: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(at).await?, tls, most: MAX_CONNECTIONS })
    }

    /// With so many connections at most.
    pub(super) fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The same listener once more.
    pub fn again(&self) -> io::Result<Self> {
        let tcp = TcpListener::from_std(std::net::TcpListener::from(self.tcp.as_fd().try_clone_to_owned()?))?;
        Ok(Self { tcp, tls: self.tls.clone(), most: self.most })
    }

    /// Those who connect, for as long as somebody asks for the next. No failure ends it.
    pub(super) fn connections(self) -> impl Stream<Item = Result<Connection, Infallible>> {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let places = files.map_or(self.most, |files| (files / 4).clamp(1, self.most));
        let door = Door {
            listener: self,
            greeted: JoinSet::new(),
            waiting: Vec::new(),
            places,
            seats: Arc::new(Seats { taken: Mutex::new(Vec::new()), places }),
        };
        stream::unfold(door, |mut door| async move { Some((Ok(door.next().await), door)) })
    }
}

/// Where those wait who have not spoken yet.
struct Door {
    listener: Listener,
    greeted: JoinSet<Option<Connection>>,
    /// The oldest first.
    waiting: Vec<AbortHandle>,
    places: usize,
    seats: Arc<Seats>,
}

impl Door {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                taken = self.listener.tcp.accept() => match taken {
                    Ok((stream, address)) => self.greet(stream, address),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be taken");
                        sleep(PAUSE).await;
                    }
                },
                Some(greeted) = self.greeted.join_next() => {
                    if let Ok(Some(connection)) = greeted {
                        return connection;
                    }
                }
            }
        }
    }

    fn greet(&mut self, stream: TcpStream, address: SocketAddr) {
        if self.waiting.len() >= self.places {
            self.waiting.retain(|waiting| !waiting.is_finished());
        }
        if self.waiting.len() >= self.places {
            self.waiting.remove(0).abort();
        }
        let (tls, seats) = (self.listener.tls.clone(), self.seats.clone());
        let greeted = async move {
            match timeout(PATIENCE, greeted(stream, address, tls, seats)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "a connection did not come about");
                    None
                }
                Err(_) => None,
            }
        };
        self.waiting.push(self.greeted.spawn(greeted));
    }
}

/// The connection, once it speaks HTTP/2; `None` when no place is left for it.
async fn greeted(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    seats: Arc<Seats>,
) -> io::Result<Option<Connection>> {
    // What is written in one piece is sent at once.
    stream.set_nodelay(true)?;
    let encrypted = tls.is_some();
    let (mut io, certificate): (Box<dyn Wire>, _) = match tls {
        None => (Box::new(stream), Certificate::None),
        Some(tls) => {
            let stream = tls.accept(stream).await?;
            let certificate = Certificate::of(stream.get_ref().1);
            (Box::new(stream), certificate)
        }
    };
    let mut preface = [0; PREFACE.len()];
    for at in 0..PREFACE.len() {
        // One by one: who says something else may never say as much.
        preface[at] = io.read_u8().await?;
        if preface[at] != PREFACE[at] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP/2"));
        }
    }
    let Some(seat) = seats.take() else { return Ok(None) };
    let left = Box::pin(seat.leave.clone().cancelled_owned());
    let peer = Peer { address, encrypted, certificate, seat: Some(seat.clone()) };
    Ok(Some(Connection { io, preface: PREFACE, left, peer, _place: Place { seats, seat } }))
}

/// Who is at the other end of a connection, for each call over it.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    pub encrypted: bool,
    /// What the client has proven by TLS.
    pub certificate: Certificate,
    seat: Option<Arc<Seat>>,
}

impl Peer {
    /// Somebody has proven over this connection who it is, so that it does not have to give way.
    pub fn is_known(&self) {
        if let Some(seat) = &self.seat {
            seat.known.store(true, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub fn at(address: SocketAddr, encrypted: bool, certificate: Certificate) -> Self {
        Self { address, encrypted, certificate, seat: None }
    }
}

#[derive(Debug)]
struct Seat {
    known: AtomicBool,
    leave: CancellationToken,
}

/// The connections that are served.
struct Seats {
    /// The oldest first.
    taken: Mutex<Vec<Arc<Seat>>>,
    places: usize,
}

impl Seats {
    /// A place for one more, if need be that of the oldest that nobody is known by.
    fn take(&self) -> Option<Arc<Seat>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= self.places {
            let unknown = taken.iter().position(|seat| !seat.known.load(Ordering::Relaxed));
            let Some(unknown) = unknown else {
                tracing::warn!(connections = taken.len(), "a connection was refused: there are too many, all of known callers");
                return None;
            };
            taken.remove(unknown).leave.cancel();
        }
        let seat = Arc::new(Seat { known: AtomicBool::new(false), leave: CancellationToken::new() });
        taken.push(seat.clone());
        Some(seat)
    }
}

/// Is given back when the connection ends.
struct Place {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A connection that speaks HTTP/2.
pub struct Connection {
    io: Box<dyn Wire>,
    /// What is left to be read of what has been read already.
    preface: &'static [u8],
    left: Pin<Box<WaitForCancellationFutureOwned>>,
    peer: Peer,
    _place: Place,
}

impl Connection {
    /// An error once it has to give way.
    fn stays(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.left.as_mut().poll(context).is_ready() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stays(context)?;
        if self.preface.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let (now, later) = self.preface.split_at(self.preface.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.preface = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stays(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stays(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stays(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p09_the_oldest_connection_that_nobody_is_known_by_gives_way_and_no_other() {
        let seats = Arc::new(Seats { taken: Mutex::new(Vec::new()), places: 3 });
        let take = || seats.take();
        let [first, second, third] = [take(), take(), take()].map(Option::unwrap);
        first.known.store(true, Ordering::Relaxed);
        let fourth = take().unwrap();
        assert_eq!([&first, &second, &third, &fourth].map(|seat| seat.leave.is_cancelled()), [false, true, false, false]);
        for seat in [&third, &fourth] {
            seat.known.store(true, Ordering::Relaxed);
        }
        assert!(take().is_none());
        drop(Place { seats: seats.clone(), seat: third });
        assert!(take().is_some());
    }
}
