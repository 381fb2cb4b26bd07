//! The daemon with a hostile decoder: what an attacker would have who has taken over a decoder.
//!
//! Only the tests build this. When it is started to decode, it does what compressed data says that
//! begins with [`MARK`], before it decodes as usual. Otherwise it is the daemon.

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use flate2::{Decompress, FlushDecompress};
use lvp_image::worker::{self, Tamper};

#[path = "../src/main.rs"]
mod program;

/// What hostile data begins with; then comes one of the words below, and a space.
const MARK: &[u8] = b"LVP-HOSTILE: ";

fn main() -> ExitCode {
    if worker::is_asked() {
        return worker::run_with(Hostile {
            is_filtered: std::env::var_os("HOSTILE_UNFILTERED").is_none(),
        });
    }
    program::main()
}

struct Hostile {
    is_filtered: bool,
}

impl Tamper for Hostile {
    fn before(&self, input: &[u8], serial: u32, socket: BorrowedFd<'_>) {
        let mut text = vec![0; 256];
        // A cluster; what follows its first bytes does not matter.
        Decompress::new(false)
            .decompress(input, &mut text, FlushDecompress::None)
            .ok();
        if let Some(word) = order(&text).or_else(|| order(input)) {
            obey(&word, serial, socket);
        }
    }

    fn is_filtered(&self) -> bool {
        self.is_filtered
    }
}

fn order(bytes: &[u8]) -> Option<String> {
    let start = bytes.windows(MARK.len()).position(|part| part == MARK)?;
    let rest = &bytes[start + MARK.len()..];
    let end = rest.iter().position(|byte| *byte == b' ')?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

fn obey(word: &str, serial: u32, socket: BorrowedFd<'_>) {
    match word {
        "hang" => loop {
            thread::park();
        },
        "crash" => std::process::abort(),
        "exit" => std::process::exit(0),
        "out-of-turn" => send(socket, &reply(serial.wrapping_add(7), 1, 0, 0)),
        "gibberish" => send(socket, &[0xff; 32]),
        "endless" => loop {
            send(socket, &[0x5a; 65536]);
        },
        "half-a-reply" => {
            send(socket, &reply(serial, 1, 0, 0)[..5]);
            thread::park();
        }
        "wrong-length" => send(socket, &reply(serial, 1, u32::MAX, u32::MAX)),
        "too-much" => send(socket, &reply(serial, 1, 0, 2 << 20)),
        "no-progress" => send(socket, &reply(serial, 1, 0, 0)),
        "other-cluster" => send(socket, &reply(serial, 2, 77_777, 0)),
        "long-reason" => send(socket, &reply(serial, 2, 0, u32::MAX)),
        "window" => {
            let mut ask = reply(serial, 3, 0, 0);
            ask[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
            send(socket, &ask);
        }
        "large-window" => {
            let mut ask = reply(serial, 3, 0, 0);
            ask[16..24].copy_from_slice(&(200_u64 << 20).to_le_bytes());
            send(socket, &ask);
        }
        "windows" => loop {
            send(socket, &reply(serial, 3, 0, 0));
            rustix::io::read(socket, &mut [0_u8; 32]).ok();
        },
        attempt => report(try_to(attempt)),
    }
}

/// Ends with what came of an attempt; with the filter, nobody comes here.
fn report(result: io::Result<()>) -> ! {
    std::process::exit(match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(255),
    })
}

/// A reply as the daemon expects it.
fn reply(serial: u32, status: u32, consumed: u32, produced: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (place, word) in bytes
        .chunks_exact_mut(4)
        .zip([serial, status, consumed, produced])
    {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) {
    rustix::io::write(socket, bytes).ok();
}

/// What an attacker would try. Each is refused.
#[expect(
    clippy::disallowed_methods,
    reason = "starting a program is an attempt"
)]
fn try_to(attempt: &str) -> io::Result<()> {
    match attempt {
        "read-shadow" => std::fs::read("/etc/shadow").map(drop),
        "read-proc" => std::fs::read("/proc/1/environ").map(drop),
        "write-file" => std::fs::write("/tmp/lvp-hostile", "x"),
        "list-files" => std::fs::read_dir("/").map(drop),
        "remove-file" => std::fs::remove_file("/tmp/lvp-hostile-victim"),
        "connect" => TcpStream::connect("127.0.0.1:8080").map(drop),
        "send-datagram" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "connect-unix" => UnixStream::connect("/run/systemd/private").map(drop),
        "start-program" => Command::new("/bin/true").spawn().map(drop),
        "start-thread" => thread::Builder::new().spawn(|| ()).map(drop),
        "executable-memory" => memmap2::MmapMut::map_anon(4096)
            .and_then(memmap2::MmapMut::make_exec)
            .map(drop),
        "new-descriptor" => io::pipe().map(drop),
        "signal-init" => {
            let init = rustix::process::Pid::INIT;
            Ok(rustix::process::kill_process(
                init,
                rustix::process::Signal::CONT,
            )?)
        }
        "raise-limit" => {
            let no_limit = rustix::process::Rlimit {
                current: Some(1024),
                maximum: Some(1024),
            };
            Ok(rustix::process::setrlimit(
                rustix::process::Resource::Nofile,
                no_limit,
            )?)
        }
        "become-root" => Ok(rustix::thread::set_thread_uid(rustix::process::Uid::ROOT)?),
        "sleep" => {
            thread::sleep(Duration::from_millis(1));
            Ok(())
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
