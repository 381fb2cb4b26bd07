//! A connection that can be held up, made deaf and cut: what a network does to a protocol that is not HTTP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What the kernel keeps for a wire of what nobody reads.
const BUFFER_BYTES: u32 = 16 << 10;

/// What happens to what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It arrives.
    Open,
    /// It waits, in both directions, as in a network that is parted: nobody is told.
    Parted,
    /// What the server sends waits; what it is sent arrives.
    Held,
    /// What the server sends is lost; what it is sent arrives.
    Deaf,
    /// Connections end, and no new one is made.
    Cut,
}

/// A port of the loopback interface that is connected to another one, until it is dropped.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    passage: Arc<watch::Sender<Passage>>,
    _task: AbortOnDropHandle<()>,
}

impl Wire {
    /// To this server, and open.
    pub async fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let passage = Arc::new(watch::Sender::new(Passage::Open));
        let told = Arc::clone(&passage);
        let task = tokio::spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let passage = told.subscribe();
                connections.spawn(connection(client, server, passage));
            }
        });
        Ok(Self {
            address,
            passage,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens from now on, also to connections that there are.
    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

async fn connection(client: TcpStream, server: SocketAddr, mut passage: watch::Receiver<Passage>) {
    if *passage.borrow() == Passage::Cut {
        return;
    }
    let Ok(server) = connected(server).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (there, back) = (passage.clone(), passage.clone());
    let cut = async move { drop(passage.wait_for(|passage| *passage == Passage::Cut).await) };
    // Whichever ends first ends the connection.
    tokio::select! {
        _ = pump(from_client, to_server, there, false) => {}
        _ = pump(from_server, to_client, back, true) => {}
        () = cut => {}
    }
}

async fn connected(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.connect(server).await
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut passage: watch::Receiver<Passage>,
    is_answer: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let goes_on = |passage: &Passage| match passage {
        Passage::Open | Passage::Deaf | Passage::Cut => true,
        Passage::Held => !is_answer,
        Passage::Parted => false,
    };
    loop {
        passage.wait_for(goes_on).await.map_err(io::Error::other)?;
        let count = tokio::select! {
            count = from.read(&mut buffer) => count?,
            // It may be held up now.
            _ = passage.changed() => continue,
        };
        if count == 0 {
            return Ok(());
        }
        let now = *passage.wait_for(goes_on).await.map_err(io::Error::other)?;
        if now != Passage::Deaf || !is_answer {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (Wire, TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let wire = Wire::to(listener.local_addr().unwrap()).await.unwrap();
        let client = TcpStream::connect(wire.address()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (wire, client, server)
    }

    #[tokio::test]
    async fn what_is_held_up_arrives_later_what_is_lost_never_and_a_cut_ends_it() {
        let (wire, mut client, mut server) = pair().await;
        let mut byte = [0];
        wire.set(Passage::Held);
        server.write_all(b"a").await.unwrap();
        client.write_all(b"b").await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
        wire.set(Passage::Open);
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"a");
        wire.set(Passage::Deaf);
        server.write_all(b"c").await.unwrap();
        client.write_all(b"d").await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"d");
        wire.set(Passage::Cut);
        assert_eq!(client.read(&mut byte).await.unwrap_or(0), 0, "c is lost");
        let mut refused = TcpStream::connect(wire.address()).await.unwrap();
        assert_eq!(refused.read(&mut byte).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn nothing_passes_while_the_network_is_parted() {
        let (wire, mut client, mut server) = pair().await;
        wire.set(Passage::Parted);
        client.write_all(b"a").await.unwrap();
        server.write_all(b"b").await.unwrap();
        let mut byte = [0];
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(server.try_read(&mut byte).is_err() && client.try_read(&mut byte).is_err());
        wire.set(Passage::Open);
        server.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"a");
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
    }
}
