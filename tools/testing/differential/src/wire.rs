// SPDX-License-Identifier: GPL-2.0

//! The wire of QEMU's 82576: frames behind their lengths, on a stream.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;

pub struct Wire {
    stream: UnixStream,
    from: BufReader<UnixStream>,
}

impl Wire {
    pub fn new(stream: UnixStream) -> Self {
        let from = BufReader::with_capacity(1 << 16, stream.try_clone().unwrap());
        Self { stream, from }
    }

    /// The next frame that QEMU sends.
    pub fn receive(&mut self) -> Vec<u8> {
        let mut len = [0; 4];
        self.from
            .read_exact(&mut len)
            .expect("QEMU sends no frame although one is due");
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        self.from.read_exact(&mut frame).unwrap();
        frame
    }

    pub fn send(&mut self, frame: &[u8]) {
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        self.stream.write_all(&bytes).unwrap();
    }
}
