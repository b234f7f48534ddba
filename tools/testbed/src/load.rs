// SPDX-License-Identifier: GPL-2.0
//! Loads between client and guest, as heavy as they get, and what came of them.
//!
//! The client asks for one over a TCP connection, a line of JSON, and the guest answers with what it has counted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::bench::percentile;
use crate::namespace;

const PORT: u16 = 7002;
/// What an application writes at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Payload of a frame of 64 bytes, with the headers of Ethernet, IPv4 and UDP and the checksum: the shortest there is.
const SMALL_BYTES: usize = 18;
/// A packet that is on its way for longer is lost.
const LATE: Duration = Duration::from_secs(1);
/// Room for what arrives while its reader does not run: what is measured is the way there.
const BUFFER_BYTES: usize = 8 << 20;
/// Silence, to whoever polls.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection on which nothing happens for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// What is done, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Load {
    TcpIn,
    TcpOut,
    SmallIn,
    SmallOut,
    RoundTrips,
    /// As `RoundTrips`, but each after some silence, in which whoever waits for it may have gone to sleep.
    FirstFrames,
}

impl Load {
    pub const ALL: [Self; 6] = [
        Self::TcpIn,
        Self::TcpOut,
        Self::SmallIn,
        Self::SmallOut,
        Self::RoundTrips,
        Self::FirstFrames,
    ];
}

/// What, its unit, and how much; more is better, but for those in microseconds.
pub type Figures = Vec<(&'static str, &'static str, f64)>;

#[derive(Serialize, Deserialize)]
struct Request {
    load: Load,
    ms: u64,
    /// The client's socket, for what is sent to it.
    port: u16,
}

/// What has arrived, in bytes or packets, and in which time.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Count {
    arrived: u64,
    ns: u64,
}

impl Count {
    fn per_second(self) -> f64 {
        self.arrived as f64 * 1e9 / self.ns.max(1) as f64
    }
}

/// The guest's end.
pub fn serve() -> Result<()> {
    serve_on(TcpListener::bind(("0.0.0.0", PORT))?);
    Ok(())
}

fn serve_on(listener: TcpListener) {
    std::thread::spawn(move || {
        // One after the other: two loads at a time would be no load of their own.
        for client in listener.incoming().flatten() {
            if let Err(error) = answer(client) {
                println!("bed: guest: load: {error:#}");
            }
        }
    });
}

fn answer(client: TcpStream) -> Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    client.set_nodelay(true)?;
    let to = client.peer_addr()?.ip();
    let mut lines = BufReader::new(client.try_clone()?);
    let Request { load, ms, port } = receive(&mut lines)?;
    let time = Duration::from_millis(ms);
    match load {
        Load::TcpIn => send(&client, &drain(lines)?),
        Load::TcpOut => {
            flood_stream(&client, time)?;
            Ok(client.shutdown(Shutdown::Write)?)
        }
        Load::SmallIn | Load::RoundTrips | Load::FirstFrames => {
            let socket = udp_socket()?;
            send(&client, &socket.local_addr()?.port())?;
            let count = while_open(lines, |ended| {
                count_packets(&socket, ended, load != Load::SmallIn)
            })?;
            send(&client, &count)
        }
        Load::SmallOut => {
            let socket = udp_socket()?;
            socket.connect((to, port))?;
            flood_packets(&socket, time);
            Ok(client.shutdown(Shutdown::Write)?)
        }
    }
}

/// Does `load` to the guest for that long, from the client's namespace.
pub fn measure(guest_ip: &str, load: Load, time: Duration) -> Result<Figures> {
    let guest: SocketAddr = format!("{guest_ip}:{PORT}").parse()?;
    let (stream, socket) = namespace::within(|| sockets(guest))?;
    run(stream, &socket, load, time).with_context(|| format!("{load:?}"))
}

fn sockets(guest: SocketAddr) -> Result<(TcpStream, UdpSocket)> {
    let stream = TcpStream::connect_timeout(&guest, Duration::from_secs(20))
        .with_context(|| format!("no connection to {guest}"))?;
    Ok((stream, udp_socket()?))
}

fn run(stream: TcpStream, socket: &UdpSocket, load: Load, time: Duration) -> Result<Figures> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let request = Request {
        load,
        ms: time.as_millis() as u64,
        port: socket.local_addr()?.port(),
    };
    send(&stream, &request)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    match load {
        Load::TcpIn => {
            flood_stream(&stream, time)?;
            stream.shutdown(Shutdown::Write)?;
            let count: Count = receive(&mut lines)?;
            Ok(vec![("TCP in", "Mbit/s", count.per_second() * 8e-6)])
        }
        Load::TcpOut => Ok(vec![(
            "TCP out",
            "Mbit/s",
            drain(lines)?.per_second() * 8e-6,
        )]),
        Load::SmallIn => {
            socket.connect((stream.peer_addr()?.ip(), receive(&mut lines)?))?;
            flood_packets(socket, time);
            stream.shutdown(Shutdown::Write)?;
            let count: Count = receive(&mut lines)?;
            Ok(vec![("64 bytes in", "packets/s", count.per_second())])
        }
        Load::SmallOut => {
            let count = while_open(lines, |ended| count_packets(socket, ended, false))?;
            Ok(vec![("64 bytes out", "packets/s", count.per_second())])
        }
        Load::RoundTrips | Load::FirstFrames => {
            socket.connect((stream.peer_addr()?.ip(), receive(&mut lines)?))?;
            let pause = if load == Load::FirstFrames {
                PAUSE
            } else {
                Duration::ZERO
            };
            let mut times = round_trips(socket, time, pause)?;
            stream.shutdown(Shutdown::Write)?;
            times.sort_unstable();
            let us = |percent| {
                percentile(&times, percent)
                    .unwrap_or_default()
                    .as_secs_f64()
                    * 1e6
            };
            Ok(if load == Load::FirstFrames {
                vec![
                    ("round trip after silence, p50", "us", us(50)),
                    ("round trip after silence, longest", "us", us(100)),
                ]
            } else {
                vec![
                    ("round trip, p50", "us", us(50)),
                    ("round trip, p99", "us", us(99)),
                ]
            })
        }
    }
}

fn udp_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("no UDP socket")?;
    // For more than the system's limit one has to be root, as both ends are in the bed.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES)?;
    }
    Ok(socket)
}

fn send<T: Serialize>(mut stream: &TcpStream, message: &T) -> Result<()> {
    let line = serde_json::to_string(message)?;
    Ok(stream.write_all(format!("{line}\n").as_bytes())?)
}

fn receive<T: for<'a> Deserialize<'a>>(lines: &mut impl BufRead) -> Result<T> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("an answer that is none: {line:?}"))
}

fn flood_stream(mut stream: &TcpStream, time: Duration) -> Result<()> {
    let chunk = vec![0x5a; CHUNK_BYTES];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    Ok(())
}

/// Reads until the other end has sent all.
fn drain(mut from: impl Read) -> Result<Count> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut count = Count::default();
    let mut start = None;
    loop {
        let bytes = from.read(&mut chunk)?;
        if bytes == 0 {
            break;
        }
        // What came first came in no time that anybody has measured.
        match start {
            None => start = Some(Instant::now()),
            Some(_) => count.arrived += bytes as u64,
        }
    }
    count.ns = start.map_or(0, |start| start.elapsed().as_nanos() as u64);
    Ok(count)
}

fn flood_packets(socket: &UdpSocket, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        // A full queue, or an interface that is down, is what is measured.
        let _ = socket.send(&[0x5a; SMALL_BYTES]);
    }
}

/// Runs `f` until the other end has closed its half of the connection, which `f` is told.
fn while_open<R: Send>(
    mut lines: impl BufRead + Send,
    f: impl FnOnce(&AtomicBool) -> Result<R> + Send,
) -> Result<R> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| f(&ended));
        let closed = lines.read_until(b'\n', &mut Vec::new());
        ended.store(true, Ordering::Relaxed);
        let result = counter.join().expect("the counter's thread panicked");
        closed.context("the other end is silent")?;
        result
    })
}

/// Counts what arrives until `ended`, and what was under way then; each packet goes back if it is to be `echoed`.
fn count_packets(socket: &UdpSocket, ended: &AtomicBool, echoed: bool) -> Result<Count> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut packet = [0; 2 * SMALL_BYTES];
    let (mut count, mut start, mut last) = (Count::default(), None, Instant::now());
    loop {
        match socket.recv_from(&mut packet) {
            Ok((bytes, from)) => {
                last = Instant::now();
                match start {
                    None => start = Some(last),
                    Some(_) => count.arrived += 1,
                }
                if echoed {
                    socket.send_to(&packet[..bytes], from)?;
                }
            }
            // Nothing for a while.
            Err(_) if ended.load(Ordering::Relaxed) => break,
            Err(_) => {}
        }
    }
    count.ns = start.map_or(0, |start| (last - start).as_nanos() as u64);
    Ok(count)
}

/// One packet at a time, there and back, and each after a pause. One that is lost counts as late.
fn round_trips(socket: &UdpSocket, time: Duration, pause: Duration) -> Result<Vec<Duration>> {
    socket.set_read_timeout(Some(LATE))?;
    let mut times = Vec::new();
    let mut packet = [0; 2 * SMALL_BYTES];
    let start = Instant::now();
    let mut number = 0_u64;
    while start.elapsed() < time {
        std::thread::sleep(pause);
        number += 1;
        let sent = Instant::now();
        let mut bytes = [0x5a; SMALL_BYTES];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        socket.send(&bytes)?;
        // Late answers to earlier ones are skipped.
        let came = loop {
            match socket.recv(&mut packet) {
                Ok(length) if packet[..length] == bytes => break sent.elapsed(),
                Ok(_) if sent.elapsed() < LATE => {}
                _ => break LATE,
            }
        };
        times.push(came);
    }
    ensure!(times.iter().any(|time| *time < LATE), "no packet came back");
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_counts_what_arrives() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let at = listener.local_addr().unwrap();
        serve_on(listener);
        for load in Load::ALL {
            let (stream, socket) = sockets(at).unwrap();
            let figures = run(stream, &socket, load, Duration::from_millis(100)).unwrap();
            assert!(!figures.is_empty());
            for (what, _, value) in figures {
                assert!(
                    value > 0.0 && value.is_finite(),
                    "{load:?}: {what} is {value}"
                );
            }
        }
    }

    #[test]
    fn a_rate_is_of_the_time_in_which_things_arrived() {
        let count = Count {
            arrived: 500,
            ns: 250_000_000,
        };
        assert_eq!(count.per_second(), 2000.0);
        assert_eq!(Count::default().per_second(), 0.0);
    }
}
