//! A TCP proxy between a client and a server, which breaks connections in the ways that networks do.

use jetlane_bus::local::Server;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Bytes that are carried in one step.
const CHUNK_BYTES: usize = 64 << 10;

/// What a link does to the bytes of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Carries them.
    Up,
    /// Carries them this much later, in each direction.
    Slow(Duration),
    /// Closes connections and refuses new ones.
    Cut,
    /// Keeps connections open and carries nothing; what was sent arrives once the link is up again.
    BlackHole,
    /// Closes the server's side and keeps the client's open: the client does not learn of it.
    HalfOpen,
    /// Carries nothing from the client to the server.
    OnlyDown,
    /// Carries nothing from the server to the client.
    OnlyUp,
    /// Carries so few bytes a second from the server to the client, as for one that reads slowly.
    Trickle(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Link {
    fn carries(self, direction: Direction) -> bool {
        match self {
            Self::Up | Self::Slow(_) | Self::Trickle(_) => true,
            Self::Cut | Self::BlackHole | Self::HalfOpen => false,
            Self::OnlyUp => direction == Direction::Up,
            Self::OnlyDown => direction == Direction::Down,
        }
    }
}

/// A proxy to one server, on a port of its own. Ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    link: watch::Sender<Link>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Starts a proxy to a server.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn to(server: &Server) -> io::Result<Self> {
        Self::to_port(server.port()).await
    }

    /// Starts a proxy to a port of this machine.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn to_port(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let link = watch::Sender::new(Link::Up);
        let watched = link.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server, watched.clone()));
            }
        });
        Ok(Self { port, link, accepting: accepting.abort_handle() })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what the link does, for connections that are open as for new ones.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries one connection until either side ends it or the link does.
async fn connection(mut client: TcpStream, server: u16, mut link: watch::Receiver<Link>) {
    let now = *link.borrow_and_update();
    match now {
        Link::Cut => return,
        Link::BlackHole | Link::HalfOpen => {
            // The system has accepted; nobody answers until the link is up, and then it is too late.
            let _proxy_is_gone = link.changed().await;
            return;
        }
        Link::Up | Link::Slow(_) | Link::OnlyDown | Link::OnlyUp | Link::Trickle(_) => {}
    }
    let Ok(mut to_server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (Ok(()), Ok(())) = (client.set_nodelay(true), to_server.set_nodelay(true)) else { return };
    let severed = {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = to_server.split();
        tokio::select! {
            () = carry(client_reads, server_writes, Direction::Up, link.clone()) => Link::Cut,
            () = carry(server_reads, client_writes, Direction::Down, link.clone()) => Link::Cut,
            severed = link.wait_for(|link| matches!(link, Link::Cut | Link::HalfOpen)) => severed.map_or(Link::Cut, |link| *link),
        }
    };
    drop(to_server);
    if severed == Link::HalfOpen {
        let _proxy_is_gone = link.wait_for(|link| *link != Link::HalfOpen).await;
    }
}

/// Carries bytes in one direction until the connection ends.
async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    direction: Direction,
    mut link: watch::Receiver<Link>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if link.wait_for(|link| link.carries(direction)).await.is_err() {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            changed = link.changed() => {
                if changed.is_err() { return }
                continue;
            }
        };
        let Ok(bytes @ 1..) = read else { return };
        let now = *link.borrow();
        match now {
            Link::Slow(delay) => tokio::time::sleep(delay).await,
            Link::Trickle(rate) if direction == Direction::Down => {
                let seconds = bytes as f64 / f64::from(rate.max(1));
                // What has been read arrives late; a link that is up again delays no more.
                let up_again = link.wait_for(|link| !matches!(link, Link::Trickle(_)));
                let _late_or_up = tokio::time::timeout(Duration::from_secs_f64(seconds), up_again).await;
            }
            _ => {}
        }
        // What was read before the link broke is on its way: it arrives once the link carries again.
        if link.wait_for(|link| link.carries(direction)).await.is_err() || to.write_all(&chunk[..bytes]).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    /// A moment in which bytes on loopback would have arrived.
    const MOMENT: Duration = Duration::from_millis(100);

    /// A server that echoes, a proxy to it, and a connection through the proxy.
    async fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        let proxy = Proxy::to_port(port).await.expect("starts");
        let stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("connects");
        (proxy, stream)
    }

    async fn answer(stream: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        timeout(MOMENT, stream.read_exact(&mut byte)).await.ok()?.ok()?;
        Some(byte[0])
    }

    #[tokio::test]
    async fn link_that_is_up_carries_and_black_hole_delivers_once_it_is_over() {
        let (proxy, mut stream) = echo().await;
        stream.write_all(b"a").await.expect("sent");
        assert_eq!(answer(&mut stream).await, Some(b'a'));
        for silent in [Link::BlackHole, Link::OnlyDown, Link::OnlyUp] {
            proxy.set(silent);
            stream.write_all(b"b").await.expect("sent");
            assert_eq!(answer(&mut stream).await, None, "{silent:?}");
            proxy.set(Link::Up);
            assert_eq!(answer(&mut stream).await, Some(b'b'), "{silent:?}");
        }
    }

    #[tokio::test]
    async fn cut_link_closes_connections_and_half_open_one_keeps_the_client_waiting() {
        let (proxy, mut stream) = echo().await;
        proxy.set(Link::HalfOpen);
        stream.write_all(b"a").await.expect("sent");
        assert_eq!(answer(&mut stream).await, None);
        let mut byte = [0];
        assert!(timeout(MOMENT, stream.read(&mut byte)).await.is_err(), "the client must not learn of it");
        proxy.set(Link::Up);
        assert_eq!(timeout(MOMENT, stream.read(&mut byte)).await.expect("at once").unwrap_or(0), 0, "it is over");
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("connects");
        stream.write_all(b"c").await.expect("sent");
        assert_eq!(answer(&mut stream).await, Some(b'c'));
        proxy.set(Link::Cut);
        assert_eq!(timeout(MOMENT, stream.read(&mut byte)).await.expect("at once").unwrap_or(0), 0, "it is cut");
    }
}
