//! Ports that no other process gets while nothing listens on them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of the loopback interface, until it is dropped. A server that is told its number, or that is
/// down for a while, finds it free: the kernel gives it to no other socket, not even as the near end of
/// a connection. Until somebody listens, connections are refused.
#[derive(Debug)]
pub struct Port(TcpSocket);

impl Port {
    /// Takes one that is free.
    pub fn reserve() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Lets another bind to it that sets the same option, as tokio's, Go's and most servers do.
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self(socket))
    }

    /// Where it is.
    ///
    /// # Panics
    ///
    /// Never: a socket that is bound has an address.
    pub fn address(&self) -> SocketAddr {
        let address = self.0.local_addr();
        address.unwrap_or_else(|error| panic!("a bound socket has no address: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_reserved_port_refuses_and_can_be_listened_on_again_and_again() {
        let port = Port::reserve().unwrap();
        let address = port.address();
        for _ in 0..3 {
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let listener = TcpListener::bind(address).unwrap();
            TcpStream::connect(address).unwrap();
            drop(listener);
        }
        let by_another_s_number = TcpSocket::new_v4().unwrap();
        let refused = by_another_s_number.bind(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
