// SPDX-License-Identifier: GPL-2.0

//! Bytes of a fuzzer as acts, and acts as bytes.
//!
//! One byte says which act, the bytes of its fields follow. Every input means something: a number that is too
//! large is taken modulo what there is, and an act that is cut off ends the life. So seeds are written as acts.

use std::fmt::Debug;

/// Most bytes of an input that are looked at.
pub const MAX_BYTES: usize = 1 << 16;
/// Most acts of one life.
pub const MAX_ACTS: usize = 256;

/// What is left of an input.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data` that is looked at.
    pub fn new(data: &'a [u8]) -> Self {
        Self(&data[..data.len().min(MAX_BYTES)])
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

/// What an act has: from bytes, and back.
pub trait Field: Sized {
    /// Takes one, unless the input ends before.
    fn take(input: &mut Input<'_>) -> Option<Self>;
    /// Writes the bytes that it is taken from.
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(impl Field for $type {
            fn take(input: &mut Input<'_>) -> Option<Self> {
                let bytes = input.bytes(size_of::<Self>())?;
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }

            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}
numbers!(u8 u16 u32 u64);

impl Field for bool {
    fn take(input: &mut Input<'_>) -> Option<Self> {
        u8::take(input).map(|byte| byte & 1 != 0)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }
}

impl<T: Field + Copy + Default, const N: usize> Field for [T; N] {
    fn take(input: &mut Input<'_>) -> Option<Self> {
        let mut all = [T::default(); N];
        for one in &mut all {
            *one = T::take(input)?;
        }
        Some(all)
    }

    fn put(&self, out: &mut Vec<u8>) {
        for one in self {
            one.put(out);
        }
    }
}

/// Bytes, at most 65,535.
impl Field for Vec<u8> {
    fn take(input: &mut Input<'_>) -> Option<Self> {
        let len = u16::take(input)?;
        input.bytes(len.into()).map(<[u8]>::to_vec)
    }

    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u16).put(out);
        out.extend_from_slice(self);
    }
}

/// A number of the kind that registers and descriptors hold: small, a flag with a number, or any, in few bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(pub u32);

impl Field for Word {
    fn take(input: &mut Input<'_>) -> Option<Self> {
        Some(Self(match u8::take(input)? {
            kind @ 0..0x80 => u32::from(u8::take(input)?) << (kind & 0x1f),
            kind @ 0x80..0xc0 => 1 << (kind & 0x1f) | u32::from(u16::take(input)?),
            kind @ 0xc0..0xe0 => !(1 << (kind & 0x1f)),
            _ => u32::take(input)?,
        }))
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self.0 {
            small @ 0..0x100 => out.extend([0, small as u8]),
            any => {
                out.push(0xff);
                any.put(out);
            }
        }
    }
}

/// Declares what may happen to a target, one variant each, with its fields.
#[macro_export]
macro_rules! acts {
    ($(#[$meta:meta])* pub enum $Act:ident {
        $($(#[$doc:meta])* $Name:ident $({ $($field:ident: $type:ty),* $(,)? })?,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        #[allow(missing_docs, reason = "an act says what its fields are")]
        pub enum $Act {
            $($(#[$doc])* $Name $({ $($field: $type),* })?,)*
        }

        const _: () = {
            enum Kind {
                $($Name),*
            }
            const KINDS: u8 = [$(Kind::$Name),*].len() as u8;

            impl $crate::input::Field for $Act {
                fn take(input: &mut $crate::input::Input<'_>) -> Option<Self> {
                    let kind = <u8 as $crate::input::Field>::take(input)? % KINDS;
                    $(if kind == Kind::$Name as u8 {
                        return Some(Self::$Name $({
                            $($field: <$type as $crate::input::Field>::take(input)?),*
                        })?);
                    })*
                    None
                }

                fn put(&self, out: &mut Vec<u8>) {
                    match self {
                        $(Self::$Name $({ $($field),* })? => {
                            out.push(Kind::$Name as u8);
                            $($($crate::input::Field::put($field, out);)*)?
                        })*
                    }
                }
            }
        };
    };
}

/// The acts in `data`.
pub fn acts<A: Field>(data: &[u8]) -> impl Iterator<Item = A> + '_ {
    let mut input = Input::new(data);
    std::iter::from_fn(move || A::take(&mut input)).take(MAX_ACTS)
}

/// What `data` means, in words.
pub fn show<A: Field + Debug>(data: &[u8]) -> Vec<String> {
    acts::<A>(data).map(|act| format!("{act:?}")).collect()
}

/// The input that means `acts`.
pub fn script<A: Field>(acts: &[A]) -> Vec<u8> {
    let mut out = Vec::new();
    for act in acts {
        act.put(&mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    acts! {
        pub enum Act {
            None,
            Some { a: u8, b: Word, c: bool },
            Bytes { bytes: Vec<u8>, words: [Word; 2] },
        }
    }

    #[test]
    fn acts_are_what_was_written() {
        let acts = [
            Act::None,
            Act::Some {
                a: 7,
                b: Word(1 << 25),
                c: true,
            },
            Act::Bytes {
                bytes: vec![1, 2, 3],
                words: [Word(0xff), Word(0x100)],
            },
        ];
        let bytes = script(&acts);
        let again: Vec<Act> = super::acts(&bytes).collect();
        assert_eq!(format!("{again:?}"), format!("{acts:?}"));
    }

    #[test]
    fn every_input_is_taken_and_ends() {
        for byte in 0..=u8::MAX {
            for len in 0..40 {
                let n = acts::<Act>(&vec![byte; len]).count();
                assert!(n <= len);
            }
        }
        assert_eq!(acts::<Act>(&[0; MAX_BYTES]).count(), MAX_ACTS);
    }
}
