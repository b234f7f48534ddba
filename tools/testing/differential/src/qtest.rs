// SPDX-License-Identifier: GPL-2.0

//! QEMU's qtest protocol: lines of text that do what a CPU would.
//!
//! A line costs a round trip of some 30 µs, so writes are sent ahead and their answers read when one is
//! needed. Whoever looks at what a write has done calls [`Qtest::settle`] first.

use std::fmt::{Arguments, Write as _};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// Lines that are sent ahead, at most: QEMU stops reading while its answers find no room.
const AHEAD: u32 = 64;

pub struct Qtest {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    /// Lines that were not sent yet.
    lines: String,
    /// Lines whose answer was not read yet.
    open: u32,
}

impl Qtest {
    pub fn new(stream: UnixStream) -> Self {
        let answers = BufReader::new(stream.try_clone().unwrap());
        Self {
            stream,
            answers,
            lines: String::new(),
            open: 0,
        }
    }

    fn say(&mut self, line: Arguments<'_>) {
        if self.open == AHEAD {
            self.settle();
        }
        writeln!(self.lines, "{line}").unwrap();
        self.open += 1;
    }

    /// Waits until all that was said is done: the last answer.
    pub fn settle(&mut self) -> String {
        self.stream
            .write_all(self.lines.as_bytes())
            .expect("QEMU is gone");
        self.lines.clear();
        let mut answer = String::new();
        for _ in 0..std::mem::take(&mut self.open) {
            answer.clear();
            self.answers
                .read_line(&mut answer)
                .expect("QEMU does not answer");
            assert!(answer.starts_with("OK"), "QEMU says {answer:?}");
        }
        answer
    }

    fn ask(&mut self, line: Arguments<'_>) -> u64 {
        self.say(line);
        let answer = self.settle();
        let number = answer.trim_start_matches("OK").trim();
        u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap()
    }

    pub fn out32(&mut self, port: u16, val: u32) {
        self.say(format_args!("outl {port:#x} {val:#x}"));
    }

    pub fn read32(&mut self, at: u64) -> u32 {
        self.ask(format_args!("readl {at:#x}")) as u32
    }

    pub fn write32(&mut self, at: u64, val: u32) {
        self.say(format_args!("writel {at:#x} {val:#x}"));
    }

    /// Lets time pass for the device: nothing else does.
    pub fn pass(&mut self, us: u32) {
        self.say(format_args!("clock_step {}", u64::from(us) * 1000));
    }
}
