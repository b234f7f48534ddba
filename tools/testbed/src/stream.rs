// SPDX-License-Identifier: GPL-2.0
//! A paced TCP stream whose every byte follows from its position: a lost, doubled or altered one is seen where it happens.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};

use crate::namespace;

const PORT: u16 = 7000;
/// Under TCG a faster one would leave no processor for the guest's other work.
const BYTES_PER_SECOND: usize = 128 * 1024;
const PERIOD: Duration = Duration::from_millis(20);

/// SplitMix64 of the position in words: random access, and no state to go wrong.
fn byte_at(position: u64) -> u8 {
    let mut z = (position / 8)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()[(position % 8) as usize]
}

/// FNV-1a, continued.
fn checksum(sum: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(sum, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

const CHECKSUM_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Serves the stream to each client, in the guest.
pub fn serve() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || feed(client));
        }
    });
    Ok(())
}

fn feed(mut client: TcpStream) {
    let mut sent = 0_u64;
    let start = Instant::now();
    loop {
        let due = (start.elapsed().as_secs_f64() * BYTES_PER_SECOND as f64) as u64;
        // After a pause only a little is made good at once, or the catching up would be the load that is measured.
        let count = due.saturating_sub(sent).min(8 * 1024);
        let bytes: Vec<u8> = (sent..sent + count).map(byte_at).collect();
        if client.write_all(&bytes).is_err() {
            return;
        }
        sent += count;
        std::thread::sleep(PERIOD);
    }
}

#[derive(Clone, Debug)]
pub struct Progress {
    pub bytes: u64,
    pub received_sum: u64,
    pub expected_sum: u64,
    pub longest_stall: Duration,
    /// Where the first wrong byte was, or why the connection ended.
    pub failure: Option<String>,
    last: Instant,
}

/// The client's end, read by a thread of its own.
pub struct Client {
    socket: TcpStream,
    progress: Arc<Mutex<Progress>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub fn connect(guest_ip: &str) -> Result<Self> {
        let address: SocketAddr = format!("{guest_ip}:{PORT}").parse()?;
        let socket = namespace::within(|| {
            TcpStream::connect_timeout(&address, Duration::from_secs(20))
                .context("no TCP connection to the guest")
        })?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let start = Progress {
            bytes: 0,
            received_sum: CHECKSUM_START,
            expected_sum: CHECKSUM_START,
            longest_stall: Duration::ZERO,
            failure: None,
            last: Instant::now(),
        };
        let progress = Arc::new(Mutex::new(start));
        let (reader, shared) = (socket.try_clone()?, Arc::clone(&progress));
        let thread = std::thread::spawn(move || read_all(reader, &shared));
        Ok(Self {
            socket,
            progress,
            thread: Some(thread),
        })
    }

    pub fn progress(&self) -> Result<Progress> {
        self.progress
            .lock()
            .map(|p| p.clone())
            .map_err(|_| anyhow!("the stream's reader panicked"))
    }

    /// Requires that data still flows: so many new bytes within the limit.
    pub fn require_flow(&self, bytes: u64, limit: Duration) -> Result<()> {
        let before = self.progress()?.bytes;
        crate::clock::wait_for("the TCP stream to go on", limit, || {
            let now = self.progress()?;
            if let Some(failure) = now.failure {
                bail!("the TCP stream: {failure}");
            }
            Ok((now.bytes >= before + bytes).then_some(()))
        })
    }

    pub fn finish(&mut self) -> Result<Progress> {
        let last = self.progress()?;
        self.socket.shutdown(Shutdown::Both).ok();
        self.thread.take().map(JoinHandle::join);
        Ok(last)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn read_all(mut socket: TcpStream, progress: &Mutex<Progress>) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = match socket.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return fail(progress, error.to_string()),
        };
        if count == 0 {
            return fail(progress, "closed by the guest".into());
        }
        let bytes = &buffer[..count];
        let Ok(mut now) = progress.lock() else { return };
        let expected: Vec<u8> = (now.bytes..now.bytes + count as u64).map(byte_at).collect();
        now.received_sum = checksum(now.received_sum, bytes.iter().copied());
        now.expected_sum = checksum(now.expected_sum, expected.iter().copied());
        if let Some(wrong) = bytes.iter().zip(&expected).position(|(a, b)| a != b) {
            now.failure = Some(format!("wrong byte at {}", now.bytes + wrong as u64));
            return;
        }
        now.bytes += count as u64;
        now.longest_stall = now.longest_stall.max(now.last.elapsed());
        now.last = Instant::now();
    }
}

fn fail(progress: &Mutex<Progress>, why: String) {
    if let Ok(mut now) = progress.lock() {
        now.failure.get_or_insert(why);
    }
}
