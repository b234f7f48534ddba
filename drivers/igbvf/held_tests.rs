// SPDX-License-Identifier: GPL-2.0

//! Held frames go in and come out, and travel.

extern crate std;

use super::*;
use crate::mirror::RX_BUFFER_BYTES;
use model::io::Iova;
use model::mock::{Memory, Mirror};
use std::vec;
use std::vec::Vec;

fn area() -> Mirror {
    Mirror::new(0x10_0000, mirror::BYTES)
}

/// A frame of `len` bytes `fill`, in the RX buffers from slot 510 on.
fn frame(area: &mut Mirror, fill: u8, len: usize) -> Frame {
    let mut frame = Frame::new();
    let mut slot = 510;
    while frame.len < len {
        let n = (len - frame.len).min(RX_BUFFER_BYTES);
        area.write(mirror::rx_buffer(0, slot), &vec![fill; n]);
        assert!(frame.push(mirror::rx_buffer(0, slot), n));
        slot = model::ring::step(mirror::RX_SLOTS, slot, 1);
    }
    frame.meta = Meta {
        types: 1,
        hash: u32::from(fill),
        status: 2,
        vlan: 3,
    };
    frame
}

fn bytes(frame: &Frame, area: &mut Mirror) -> Vec<u8> {
    let mut mem = Memory::new(0, MAX_FRAME_BYTES);
    frame
        .copy_to_guest(area, 0, frame.len, &mut mem, Iova(0))
        .unwrap();
    mem.get(0, frame.len).to_vec()
}

#[test]
fn held_frames_come_out_as_they_went_in_across_the_wrap() {
    let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
    let mut next_out = 0u8;
    for i in 0..250u8 {
        let f = frame(&mut area, i, 60 + usize::from(i) * 50);
        assert!(held.push(0, &mut area, &f));
        if i >= 10 {
            let f = held.peek(0, &mut area, &mut counters).unwrap();
            let len = 60 + usize::from(next_out) * 50;
            assert_eq!(f.meta.hash, u32::from(next_out));
            assert_eq!(bytes(&f, &mut area), vec![next_out; len]);
            held.pop(&f);
            next_out += 1;
        }
    }
    assert_eq!(held.count(), 10);
}

#[test]
fn held_frames_are_bounded() {
    let (mut area, mut held) = (area(), Held::new());
    let f = frame(&mut area, 1, MAX_FRAME_BYTES);
    let n = (0..100).take_while(|_| held.push(0, &mut area, &f)).count();
    assert_eq!(n, 15);
    let mut buf = vec![0; 17 * 1024];
    let mut w = Writer::new(&mut buf);
    held.save(0, 14, &mut area, &mut w).unwrap();
    let len = w.written();
    assert!(len <= model::image::MAX_SECTION_BYTES - model::image::SECTION_OVERHEAD_BYTES);
    let mut r = Reader::new(&buf[1..len]);
    assert!(held.load(0, &mut r, &mut area).is_err());
}

#[test]
fn saved_frames_are_those_that_are_loaded() {
    let (mut area, mut held, mut other) = (area(), Held::new(), Held::new());
    let mut images = Vec::new();
    for i in 0..20u8 {
        let f = frame(&mut area, i, 100 * usize::from(i) + 60);
        assert!(held.push(0, &mut area, &f));
    }
    let mut buf = [0; 4096];
    held.save(0, 5, &mut area, &mut Writer::new(&mut buf))
        .unwrap();
    let first = held.peek(0, &mut area, &mut Counters::default()).unwrap();
    held.pop(&first);
    // In any order, though in order is the fast one.
    for i in [7].into_iter().chain(0..19).chain([3, 18, 0]) {
        let mut buf = vec![0; 4096];
        let mut w = Writer::new(&mut buf);
        held.save(0, i, &mut area, &mut w).unwrap();
        let len = w.written();
        images.push((i, buf[..len].to_vec()));
    }
    let mut to = self::area();
    for (_, image) in images.iter().skip(1).take(19) {
        let mut r = Reader::new(&image[1..]);
        other.load(0, &mut r, &mut to).unwrap();
    }
    for (i, image) in &images {
        let mut buf = vec![0; 4096];
        let mut w = Writer::new(&mut buf);
        other.save(0, *i, &mut to, &mut w).unwrap();
        let len = w.written();
        assert_eq!(&buf[..len], &image[..]);
    }
    assert_eq!(
        held.save(0, 19, &mut area, &mut Writer::new(&mut [0; 64])),
        Err(Full)
    );
}

#[test]
fn a_record_that_the_device_has_overwritten_loses_the_fifo_and_no_more() {
    let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
    let f = frame(&mut area, 1, 60);
    for _ in 0..3 {
        assert!(held.push(0, &mut area, &f));
    }
    area.write(mirror::held(0, 0), &[0xff; 4]);
    assert!(held.peek(0, &mut area, &mut counters).is_none());
    assert_eq!((held.count(), counters.dropped_rx_malformed), (0, 3));
}

#[test]
fn a_frame_costs_its_bytes_and_24_more_in_steps_of_8() {
    let (mut area, mut held) = (area(), Held::new());
    let f = frame(&mut area, 1, 60);
    let n = (0..4000)
        .take_while(|_| held.push(0, &mut area, &f))
        .count();
    assert_eq!(n, HELD_BYTES / 88);
}

#[test]
fn a_fifo_goes_round_for_as_long_as_it_is_used() {
    let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
    let mut f = frame(&mut area, 1, 60);
    for n in 0..20_000 {
        f.meta.hash = n;
        assert!(held.push(0, &mut area, &f));
        let out = held.peek(0, &mut area, &mut counters).unwrap();
        assert_eq!((out.meta.hash, out.len), (n, 60));
        held.pop(&out);
    }
    assert_eq!(counters, Counters::default());
}

#[test]
fn frames_are_saved_by_their_number_in_any_order() {
    let (mut area, mut held) = (area(), Held::new());
    for i in 0..9u8 {
        let f = frame(&mut area, i, 100 + usize::from(i));
        assert!(held.push(0, &mut area, &f));
    }
    for i in [5, 0, 8, 8, 1, 2, 7] {
        let mut buf = [0; 256];
        let mut w = Writer::new(&mut buf);
        held.save(0, i, &mut area, &mut w).unwrap();
        let len = w.written();
        let mut r = Reader::new(&buf[..len]);
        // Queue, types, hash.
        assert_eq!(
            (r.take_u8(), r.take_u32(), r.take_u32()),
            (Ok(0), Ok(1), Ok(i))
        );
        assert_eq!(len, 1 + 14 + 100 + i as usize);
        assert_eq!(buf[len - 1], i as u8);
    }
}

#[test]
fn a_held_frame_of_an_impossible_length_is_refused() {
    let mut area = area();
    for (len, good) in [
        (0, false),
        (1, true),
        (MAX_FRAME_BYTES, true),
        (MAX_FRAME_BYTES + 1, false),
    ] {
        let mut held = Held::new();
        let loaded = held.load(0, &mut Reader::new(&vec![0; 14 + len]), &mut area);
        assert_eq!((loaded.is_ok(), held.count()), (good, u32::from(good)));
    }
}

#[test]
fn a_record_is_believed_within_the_bounds_of_the_fifo_only() {
    for (len, good) in [
        (0, false),
        (1, true),
        (60, true),
        // To the end of what is used, and beyond.
        (2 * 1024 + 88, true),
        (2 * 1024 + 89, false),
        (MAX_FRAME_BYTES + 1, false),
        (usize::MAX, false),
    ] {
        let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
        let first = frame(&mut area, 1, 60);
        let second = frame(&mut area, 1, 2 * 1024);
        assert!(held.push(0, &mut area, &first) && held.push(0, &mut area, &second));
        area.write(mirror::held(0, 0), &(len as u32).to_le_bytes());
        let out = held.peek(0, &mut area, &mut counters);
        assert_eq!(out.is_some(), good, "{len}");
    }
    // One that is too long, though the FIFO has more.
    let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
    let f = frame(&mut area, 1, MAX_FRAME_BYTES);
    assert!(held.push(0, &mut area, &f) && held.push(0, &mut area, &f));
    let len = MAX_FRAME_BYTES as u32 + 1;
    area.write(mirror::held(0, 0), &len.to_le_bytes());
    assert!(held.peek(0, &mut area, &mut counters).is_none());
}

#[test]
fn a_record_that_the_device_has_altered_says_nothing_that_is_ours_to_say() {
    let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
    let f = frame(&mut area, 1, 60);
    assert!(held.push(0, &mut area, &f));
    // Types and status: HDR_LEN, SPH and DD among them.
    area.write(mirror::held(0, 4), &[0xff; 4]);
    area.write(mirror::held(0, 12), &[0xff; 4]);
    let meta = held.peek(0, &mut area, &mut counters).unwrap().meta;
    assert_eq!((meta.types, meta.status), (RX_TYPES, !DD));
}
