//! How long the way of a TCP connection takes, as the kernel knows it.
//!
//! Linux tells the state of any connection of the same network namespace to any user, over a netlink socket
//! (`sock_diag(7)`, `linux/inet_diag.h`, `struct tcp_info` of `linux/tcp.h`). So the way of an SSH session can be watched
//! although its socket belongs to the SSH server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The two ends of a TCP connection, this host's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The address of this host.
    pub local: SocketAddr,
    /// The address of the other one.
    pub remote: SocketAddr,
}

impl Connection {
    /// What the SSH server names in `SSH_CONNECTION`: address and port of the client, then those of the server.
    #[must_use]
    pub fn of_ssh(variable: &str) -> Option<Self> {
        let mut words = variable.split_ascii_whitespace();
        let mut end = || {
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(address.to_canonical(), words.next()?.parse().ok()?))
        };
        let (remote, local) = (end()?, end()?);
        (words.next().is_none() && local.is_ipv4() == remote.is_ipv4()).then_some(Self { local, remote })
    }
}

/// What the kernel knows of the way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// From a byte that was sent to the word that it arrived, smoothed over about eight of them.
    pub smoothed: Duration,
    /// The least of the last minutes, where the kernel says.
    pub least: Option<Duration>,
    /// Bytes that the other side has confirmed: while they do not grow, nothing new was measured.
    pub confirmed: u64,
}

#[cfg(target_os = "linux")]
pub use linux::Watched;
#[cfg(not(target_os = "linux"))]
pub use other::Watched;

#[cfg(target_os = "linux")]
mod linux {
    use std::net::{IpAddr, SocketAddr};
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

    use super::{Connection, RoundTrip};

    /// `SOCK_DIAG_BY_FAMILY`, `NLM_F_REQUEST`.
    const BY_FAMILY: u16 = 20;
    const REQUEST: u16 = 1;
    const TCP: u8 = 6;
    /// `INET_DIAG_INFO`: the attribute with a `tcp_info`; it is asked for by the bit below its number.
    const INFO: u16 = 2;
    const ESTABLISHED: u8 = 1;
    const ANY_STATE: u32 = u32::MAX;
    /// `INET_DIAG_NOCOOKIE`.
    const NO_COOKIE: u64 = u64::MAX;
    /// Lengths of `nlmsghdr`, `inet_diag_req_v2` and `inet_diag_msg`.
    const HEADER: usize = 16;
    const ASKED: usize = 56;
    const TOLD: usize = 72;
    /// Offsets in `tcp_info`.
    const SMOOTHED: usize = 68;
    const CONFIRMED: usize = 120;
    const LEAST: usize = 148;

    /// A connection that is looked at again and again.
    #[derive(Debug)]
    pub struct Watched {
        socket: OwnedFd,
        connection: Connection,
        number: u32,
    }

    impl Watched {
        /// Opens a netlink socket for it; `None` where there is none to be had.
        #[must_use]
        pub fn new(connection: Connection) -> Option<Self> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG)).ok()?;
            Some(Self { socket, connection, number: 0 })
        }

        /// What the kernel knows of it now; `None` when it is closed, or not of this network namespace. Does not wait.
        pub fn look(&mut self) -> Option<RoundTrip> {
            self.number = self.number.wrapping_add(1);
            let question = question(&self.connection, self.number);
            sendto(&self.socket, &question, SendFlags::DONTWAIT, &SocketAddrNetlink::new(0, 0)).ok()?;
            let mut buffer = [0; 2048];
            // The kernel answers before the question has left; what is older belongs to one that was given up.
            for _ in 0..8 {
                let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT).ok()?;
                let answer = buffer.get(..length)?;
                if u32_at(answer, 8)? == self.number {
                    return round_trip(answer);
                }
            }
            None
        }
    }

    fn question(connection: &Connection, number: u32) -> [u8; HEADER + ASKED] {
        let mut bytes = [0; HEADER + ASKED];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&((HEADER + ASKED) as u32).to_ne_bytes());
        put(&BY_FAMILY.to_ne_bytes());
        put(&REQUEST.to_ne_bytes());
        put(&number.to_ne_bytes());
        put(&0_u32.to_ne_bytes());
        let family = if connection.local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        put(&[family.as_raw() as u8, TCP, 1 << (INFO - 1), 0]);
        put(&ANY_STATE.to_ne_bytes());
        put(&connection.local.port().to_be_bytes());
        put(&connection.remote.port().to_be_bytes());
        put(&address(connection.local));
        put(&address(connection.remote));
        put(&0_u32.to_ne_bytes());
        put(&NO_COOKIE.to_ne_bytes());
        bytes
    }

    fn address(end: SocketAddr) -> [u8; 16] {
        match end.ip() {
            IpAddr::V6(address) => address.octets(),
            IpAddr::V4(address) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&address.octets());
                bytes
            }
        }
    }

    fn round_trip(answer: &[u8]) -> Option<RoundTrip> {
        let length = usize::try_from(u32_at(answer, 0)?).ok()?.min(answer.len());
        if u16_at(answer, 4)? != BY_FAMILY || *answer.get(HEADER + 1)? != ESTABLISHED {
            return None;
        }
        let mut attributes = answer.get(HEADER + TOLD..length)?;
        loop {
            let length = usize::from(u16_at(attributes, 0)?);
            if u16_at(attributes, 2)? == INFO {
                let info = attributes.get(4..length)?;
                let time = |at: usize| u32_at(info, at).map(|micros| Duration::from_micros(micros.into()));
                return Some(RoundTrip {
                    smoothed: time(SMOOTHED).filter(|smoothed| !smoothed.is_zero())?,
                    // All ones: nothing was measured.
                    least: time(LEAST).filter(|least| least.as_micros() < u128::from(u32::MAX)),
                    confirmed: info
                        .get(CONFIRMED..CONFIRMED + 8)
                        .and_then(|bytes| bytes.try_into().ok())
                        .map_or(0, u64::from_ne_bytes),
                });
            }
            attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
        }
    }

    fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
    }

    fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    }

    #[cfg(test)]
    mod tests {
        use std::io::{Read, Write};
        use std::net::{TcpListener, TcpStream};

        use super::*;

        fn watched(host: &str) -> (Watched, TcpStream, TcpStream) {
            let listener = TcpListener::bind((host, 0)).unwrap();
            let remote = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, _) = listener.accept().unwrap();
            let connection = Connection { local: local.local_addr().unwrap(), remote: local.peer_addr().unwrap() };
            (Watched::new(connection).unwrap(), local, remote)
        }

        #[test]
        fn the_way_over_this_host_is_short_and_bytes_are_counted() {
            let (mut watched, mut local, mut remote) = watched("127.0.0.1");
            let mut last = watched.look().unwrap();
            for _ in 0..20 {
                local.write_all(b"key").unwrap();
                remote.read_exact(&mut [0; 3]).unwrap();
                remote.write_all(b"echo").unwrap();
                local.read_exact(&mut [0; 4]).unwrap();
                let now = watched.look().unwrap();
                assert_eq!(now.confirmed, last.confirmed + 3, "an echo confirms what it answers");
                last = now;
            }
            assert!(last.smoothed < Duration::from_secs(2) && last.least.unwrap() <= last.smoothed, "{last:?}");
            assert!(last.least.unwrap() < Duration::from_millis(50), "{last:?}");
            drop((local, remote));
            // A process that another test starts just now may hold both ends until it becomes the program that it is for.
            let closed = std::time::Instant::now();
            while watched.look().is_some() {
                assert!(closed.elapsed() < Duration::from_secs(60), "it is closed");
                std::thread::yield_now();
            }
        }

        #[test]
        fn six_is_as_good_as_four() {
            if TcpListener::bind("[::1]:0").is_ok() {
                assert!(watched("::1").0.look().is_some());
            }
        }

        #[test]
        fn an_answer_that_is_cut_anywhere_is_none() {
            let (watched, _local, _remote) = watched("127.0.0.1");
            let question = question(&watched.connection, 1);
            sendto(&watched.socket, &question, SendFlags::DONTWAIT, &SocketAddrNetlink::new(0, 0)).unwrap();
            let mut buffer = [0; 2048];
            let (length, _) = recv(&watched.socket, &mut buffer[..], RecvFlags::DONTWAIT).unwrap();
            assert!(round_trip(&buffer[..length]).is_some());
            for cut in 0..HEADER + TOLD + SMOOTHED {
                assert_eq!(round_trip(&buffer[..cut]), None, "{cut}");
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::{Connection, RoundTrip};

    /// A connection that nobody can look at here.
    #[derive(Debug)]
    pub struct Watched;

    impl Watched {
        /// Never: other systems tell only who holds the socket.
        #[must_use]
        pub fn new(_connection: Connection) -> Option<Self> {
            None
        }

        /// Nothing.
        pub fn look(&mut self) -> Option<RoundTrip> {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_of_an_ssh_session_is_read() {
        let read = |text| Connection::of_ssh(text).map(|ends| (ends.local.to_string(), ends.remote.to_string()));
        let ends = |local: &str, remote: &str| Some((local.to_owned(), remote.to_owned()));
        assert_eq!(read("192.0.2.7 50022 198.51.100.1 22"), ends("198.51.100.1:22", "192.0.2.7:50022"));
        assert_eq!(read("2001:db8::7 5 2001:db8::1 22"), ends("[2001:db8::1]:22", "[2001:db8::7]:5"));
        assert_eq!(read("::ffff:192.0.2.7 5 192.0.2.1 22"), ends("192.0.2.1:22", "192.0.2.7:5"));
        for text in [
            "",
            "yes",
            "192.0.2.7 50022 198.51.100.1",
            "192.0.2.7 70000 1.1.1.1 2",
            "fe80::1%lo 1 fe80::2 2",
            "192.0.2.7 1 ::1 2",
            "192.0.2.7 1 1.1.1.1 2 3",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
