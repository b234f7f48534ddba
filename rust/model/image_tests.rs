// SPDX-License-Identifier: GPL-2.0

//! What [`image`](super) refuses.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;

static LAYOUT: Layout = Layout {
    name: "test",
    image_id: 7,
    bar_bytes: 0x4000,
    trapped: (0, 0x1000),
    substituted: (0x2000, 0x4000),
    mirror_bytes: 0,
};
static OTHER_ADAPTER: Layout = Layout {
    image_id: 8,
    ..LAYOUT
};
static OTHER_GEOMETRY: Layout = Layout {
    bar_bytes: 0x8000,
    ..LAYOUT
};

type Sections = Vec<(Tag, Vec<u8>)>;

fn sections() -> Sections {
    vec![
        (Tag::Control, vec![1, 2, 3]),
        (Tag::Control, vec![]),
        (Tag::State, vec![5; 100]),
        (Tag::Held, vec![6; 60]),
        (Tag::Held, vec![7; 61]),
    ]
}

fn encode(layout: &'static Layout, sections: &[(Tag, Vec<u8>)]) -> Vec<u8> {
    let mut e = Encoder::new(layout);
    let mut image = Vec::new();
    let mut buf = vec![0; MAX_SECTION_BYTES];
    let n = e.header(&mut buf).unwrap();
    image.extend_from_slice(&buf[..n]);
    for (tag, payload) in sections {
        let n = e.section(&mut buf, *tag, |w| w.put_bytes(payload)).unwrap();
        image.extend_from_slice(&buf[..n]);
    }
    let n = e.end(&mut buf).unwrap();
    image.extend_from_slice(&buf[..n]);
    image
}

/// Decodes `image` as it comes in pieces of `piece` bytes.
fn decode(image: &[u8], piece: usize) -> Result<(Sections, bool), Refused> {
    let mut d = Decoder::new(&LAYOUT);
    let (mut out, mut have) = (Vec::new(), Vec::new());
    for part in image.chunks(piece) {
        have.extend_from_slice(part);
        loop {
            let used = match d.step(&have)? {
                Step::NeedMore => break,
                Step::Header { consumed } => consumed,
                Step::Section {
                    tag,
                    start,
                    end,
                    consumed,
                } => {
                    if tag != Tag::End {
                        out.push((tag, have[start..end].to_vec()));
                    }
                    consumed
                }
            };
            have.drain(..used);
        }
        assert!(have.len() < MAX_SECTION_BYTES);
    }
    Ok((out, d.is_complete()))
}

#[test]
fn image_is_read_as_it_was_written_in_pieces_of_any_size() {
    let image = encode(&LAYOUT, &sections());
    for piece in 1..=image.len() {
        assert_eq!(decode(&image, piece).unwrap(), (sections(), true));
    }
}

#[test]
fn crc_is_that_of_ieee_802_3() {
    let mut crc = Crc::new();
    crc.add(b"123456789");
    assert_eq!(crc.value(), 0xcbf4_3926);
}

#[test]
fn crc_is_the_same_in_whatever_pieces() {
    let bytes: Vec<u8> = (0..100u8).map(|n| n.wrapping_mul(151)).collect();
    let mut whole = Crc::new();
    whole.add(&bytes);
    for size in 1..bytes.len() {
        let mut pieces = Crc::new();
        bytes.chunks(size).for_each(|piece| pieces.add(piece));
        assert_eq!(pieces, whole, "pieces of {size}");
    }
}

#[test]
fn truncation_at_every_byte_is_incomplete() {
    let image = encode(&LAYOUT, &sections());
    for len in 0..image.len() {
        let (got, complete) = decode(&image[..len], 64).unwrap();
        assert!(!complete);
        assert!(sections().starts_with(&got));
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let image = encode(&LAYOUT, &sections());
    for at in 0..image.len() {
        for bit in 0..8 {
            let mut bad = image.clone();
            bad[at] ^= 1 << bit;
            // A longer length may wait for more, but such an image never gets complete.
            if let Ok((_, complete)) = decode(&bad, 64) {
                assert!(!complete, "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn swapped_sections_are_refused() {
    let mut swapped = sections();
    swapped.swap(3, 4);
    let (image, other) = (encode(&LAYOUT, &sections()), encode(&LAYOUT, &swapped));
    // The same sections with the checksums of the other order.
    let mut mixed = image.clone();
    let held = HEADER_BYTES + 5 * SECTION_OVERHEAD_BYTES + 3 + 100 + 60 + 61;
    mixed[..held].copy_from_slice(&other[..held]);
    assert!(decode(&mixed, 64).is_err());
    for (tags, refused) in [
        (vec![Tag::State], true),
        (vec![Tag::Control, Tag::Held], true),
        (vec![Tag::Control, Tag::State, Tag::State], true),
        (vec![Tag::Control, Tag::State, Tag::Control], true),
        (vec![Tag::Control], true),
        (vec![Tag::Control, Tag::State], false),
    ] {
        let list: Vec<_> = tags.into_iter().map(|tag| (tag, vec![])).collect();
        assert_eq!(
            decode(&encode(&LAYOUT, &list), 64).is_err(),
            refused,
            "{list:?}"
        );
    }
}

#[test]
fn other_adapters_and_geometries_are_refused_by_name() {
    let why = |layout| decode(&encode(layout, &sections()), 64).unwrap_err().0;
    assert_eq!(why(&OTHER_ADAPTER), "an image of another adapter");
    assert_eq!(why(&OTHER_GEOMETRY), "an image of another geometry");
    assert_eq!(decode(&[0; 8], 8).unwrap_err().0, "not a semiassign image");
}

#[test]
fn nothing_may_follow_the_end_and_a_refusal_stays() {
    let mut image = encode(&LAYOUT, &sections());
    image.push(0);
    assert_eq!(
        decode(&image, 64).unwrap_err().0,
        "bytes after the end of the image"
    );
    let mut d = Decoder::new(&LAYOUT);
    assert!(d.step(&[0; 8]).is_err());
    assert!(d.step(&encode(&LAYOUT, &sections())).is_err());
}

#[test]
fn a_length_is_bounded_before_it_is_waited_for() {
    let image = encode(&LAYOUT, &sections());
    let mut d = Decoder::new(&LAYOUT);
    assert_eq!(
        d.step(&image),
        Ok(Step::Header {
            consumed: HEADER_BYTES
        })
    );
    let head = [1, 0, 1, 0, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(d.step(&head), Err(Refused("a section that is too long")));
}

#[test]
fn a_full_buffer_leaves_the_image_as_it_was() {
    let mut e = Encoder::new(&LAYOUT);
    let before = e.clone();
    for len in 0..HEADER_BYTES {
        assert_eq!(e.header(&mut vec![0; len]), Err(Full));
    }
    for len in 0..SECTION_OVERHEAD_BYTES + 4 {
        assert_eq!(
            e.section(&mut vec![0; len], Tag::Held, |w| w.put_u32(1)),
            Err(Full)
        );
    }
    assert_eq!((e.crc, e.sections), (before.crc, before.sections));
}

/// Puts the right checksum at the end of `part`, which is the first of its image.
fn seal(part: &mut [u8]) {
    let body = part.len() - CRC_BYTES;
    let mut crc = Crc::new();
    crc.add(&part[..body]);
    part[body..].copy_from_slice(&crc.value().to_le_bytes());
}

#[test]
fn other_versions_and_flags_are_refused_by_name() {
    for (at, why) in [
        (8, "an image of another version"),
        (9, "an image of another version"),
        (10, "an image with unknown flags"),
        (11, "an image with unknown flags"),
    ] {
        let mut header = encode(&LAYOUT, &[])[..HEADER_BYTES].to_vec();
        header[at] ^= 0x10;
        seal(&mut header);
        assert_eq!(Decoder::new(&LAYOUT).step(&header), Err(Refused(why)));
    }
}

#[test]
fn sections_of_another_kind_or_version_are_refused_before_they_are_waited_for() {
    let header = encode(&LAYOUT, &[])[..HEADER_BYTES].to_vec();
    for (head, why) in [
        ([0, 0, 1, 0], "an unknown section"),
        ([5, 0, 1, 0], "an unknown section"),
        ([1, 1, 1, 0], "an unknown section"),
        ([1, 0, 2, 0], "a section of another version"),
        ([1, 0, 1, 1], "a section of another version"),
    ] {
        let mut d = Decoder::new(&LAYOUT);
        d.step(&header).unwrap();
        let [a, b, c, e] = head;
        assert_eq!(d.step(&[a, b, c, e, 9, 0, 0, 0]), Err(Refused(why)));
    }
}

#[test]
fn an_image_counts_its_sections() {
    let (mut e, mut d) = (Encoder::new(&LAYOUT), Decoder::new(&LAYOUT));
    let mut buf = vec![0; MAX_SECTION_BYTES];
    let n = e.header(&mut buf).unwrap();
    d.step(&buf[..n]).unwrap();
    for tag in [Tag::Control, Tag::State] {
        let n = e.section(&mut buf, tag, |_| Ok(())).unwrap();
        d.step(&buf[..n]).unwrap();
    }
    // A crc that is right, and a number that is not.
    let mut other = e.clone();
    other.sections = 3;
    for (encoder, right) in [(&mut other, false), (&mut e, true)] {
        let n = encoder.end(&mut buf).unwrap();
        assert_eq!(d.clone().step(&buf[..n]).is_ok(), right);
    }
    // And nothing after it.
    let n = e
        .section(&mut buf, Tag::End, |w| {
            w.put_u32(2)?;
            w.put_u8(0)
        })
        .unwrap();
    assert!(d.step(&buf[..n]).is_err());
}

#[test]
fn the_longest_section_is_read_as_it_was_written() {
    let mut longest = sections();
    longest[2].1 = vec![9; MAX_PAYLOAD_BYTES];
    let image = encode(&LAYOUT, &longest);
    assert_eq!(decode(&image, 4096).unwrap(), (longest, true));
    let mut e = Encoder::new(&LAYOUT);
    let mut buf = vec![0; 2 * MAX_SECTION_BYTES];
    let one_more = |w: &mut Writer<'_>| w.put_bytes(&[9; MAX_PAYLOAD_BYTES + 1]);
    assert_eq!(e.section(&mut buf, Tag::State, one_more), Err(Full));
}

#[test]
fn numbers_are_written_in_their_own_width_little_end_first() {
    let mut buf = [0; 15];
    let mut w = Writer::new(&mut buf);
    w.put_u8(0x01).unwrap();
    w.put_u16(0x0302).unwrap();
    w.put_u32(0x0706_0504).unwrap();
    w.put_u64(0x0f0e_0d0c_0b0a_0908).unwrap();
    assert_eq!((w.written(), w.put_u8(0)), (15, Err(Full)));
    assert!(buf.into_iter().eq(1..=15));
    let mut r = Reader::new(&buf);
    assert_eq!(r.take_u8(), Ok(0x01));
    assert_eq!(r.take_u16(), Ok(0x0302));
    assert_eq!(r.take_u32(), Ok(0x0706_0504));
    assert_eq!(r.remaining(), 8);
    assert_eq!(r.take_u64(), Ok(0x0f0e_0d0c_0b0a_0908));
    assert_eq!(r.clone().finish(), Ok(()));
    assert!(r.take_u8().is_err());
}

#[test]
fn a_truth_is_0_or_1() {
    assert_eq!(Reader::new(&[0]).take_bool(), Ok(false));
    assert_eq!(Reader::new(&[1]).take_bool(), Ok(true));
    for bad in [2, 0x80, 0xff] {
        assert!(Reader::new(&[bad]).take_bool().is_err());
    }
}
