//! Changes of the instructions that look a decision up, made to the bytes of objects.

use object::{Object, ObjectSection};
use seg_artifact::object::{PROGRAM_SECTION, seal};
use seg_tests::random::Random;

const SLOT_BYTES: usize = 8;
/// `r0 = r0`.
const NOTHING: [u8; SLOT_BYTES] = [0xbf, 0, 0, 0, 0, 0, 0, 0];
/// From the end of the stack, where the counter of the decision is noted. Unit: bytes.
const COUNTER: i16 = -132;

/// Another instruction, if the kind of change applies to this one.
type Change = fn([u8; SLOT_BYTES]) -> Option<[u8; SLOT_BYTES]>;

pub(crate) const CHANGES: &[(&str, Change)] = &[
    ("constant_is_one_more", |insn| with_constant(insn, |op, n| (op != AND).then(|| n + 1))),
    // A class has its 16 bits cut out first, and then those of a table.
    ("mask_is_half", |insn| {
        with_constant(insn, |op, n| (op == AND && n > 0 && n < 0xffff).then_some(n >> 1))
    }),
    // The upper byte of a port has no more than the mask of its table.
    ("mask_is_twice", |insn| {
        with_constant(insn, |op, n| {
            (op == AND && n > 0 && n != 0xff && n < 0xfff).then_some(n << 1 | 1)
        })
    }),
    ("shift_the_other_way", |insn| with_operation(insn, &[(0x60, 0x70), (0x70, 0x60)])),
    ("sign_is_lost", |insn| with_operation(insn, &[(0xc0, 0x70)])),
    ("and_is_or", |insn| with_operation(insn, &[(AND, 0x40)])),
    ("or_is_and", |insn| with_operation(insn, &[(0x40, AND)])),
    ("difference_is_sum", |insn| with_operation(insn, &[(0x10, 0)])),
    ("product_is_sum", |insn| with_operation(insn, &[(0x20, 0)])),
    ("only_half_is_computed", |insn| {
        // Of what has more than 32 bits: signs, keys of cells, addresses.
        (insn[0] & 0xf7 == 0xc7).then(|| with_code(insn, insn[0] - 3))
    }),
    ("operation_is_left_out", |insn| {
        (insn[0] & 15 == 0x0f && insn[0] & 0xf0 != 0xb0).then_some(NOTHING)
    }),
    ("entry_is_the_next", |insn| {
        let size = load(insn)?;
        let offset = i16::from_ne_bytes([insn[2], insn[3]]) + size;
        let [a, b] = offset.to_ne_bytes();
        Some([insn[0], insn[1], a, b, insn[4], insn[5], insn[6], insn[7]])
    }),
    ("entry_is_read_in_part", |insn| {
        let narrower = match insn[0] & 0x18 {
            0x18 => 0x00,
            0x00 => 0x08,
            0x08 => 0x10,
            _ => return None,
        };
        load(insn)?;
        Some(with_code(insn, insn[0] & !0x18 | narrower))
    }),
];

const AND: u8 = 0x50;

/// Objects with one instruction of one look-up changed, at up to `n` places.
pub(crate) fn changed(
    bytes: &[u8],
    change: Change,
    n: usize,
    random: &mut Random,
) -> Vec<(usize, Vec<u8>)> {
    let file = object::File::parse(bytes).expect("an object");
    let section = file.section_by_name(PROGRAM_SECTION).expect("it has programs");
    let (from, len) = section.file_range().expect("they are in the file");
    let slot = |at: usize| -> [u8; SLOT_BYTES] {
        bytes[at..at + SLOT_BYTES].try_into().expect("whole slots")
    };
    let mut places: Vec<usize> = Vec::new();
    let (mut knows, mut looks) = (false, false);
    let mut at = from as usize;
    while at < (from + len) as usize {
        let insn = slot(at);
        // Behind the address of the tables the first byte read from there begins it: the kind of a protocol.
        knows |= insn[0] == 0x18 && insn[1] >> 4 == 2;
        looks |= knows && insn[0] == 0x71 && insn[1] >> 4 != 10;
        if insn[0] == 0x63 && i16::from_ne_bytes([insn[2], insn[3]]) == COUNTER {
            (knows, looks) = (false, false);
        }
        if looks && change(insn).is_some() {
            places.push(at);
        }
        at += SLOT_BYTES * if insn[0] == 0x18 { 2 } else { 1 };
    }
    random.shuffle(&mut places);
    let make = |at: usize| {
        let mut changed = bytes.to_vec();
        let insn = change(slot(at)).expect("it applies");
        changed[at..at + SLOT_BYTES].copy_from_slice(&insn);
        ((at - from as usize) / SLOT_BYTES, seal(changed).expect("it seals"))
    };
    places.into_iter().take(n).map(make).collect()
}

fn with_code(mut insn: [u8; SLOT_BYTES], code: u8) -> [u8; SLOT_BYTES] {
    insn[0] = code;
    insn
}

/// 64-bit arithmetic with a constant.
fn with_constant(
    insn: [u8; SLOT_BYTES],
    change: impl Fn(u8, i32) -> Option<i32>,
) -> Option<[u8; SLOT_BYTES]> {
    let [code, regs, o0, o1, rest @ ..] = insn;
    if code & 15 != 0x07 || code & 0xf0 == 0xb0 {
        return None;
    }
    let [a, b, c, d] = change(code & 0xf0, i32::from_ne_bytes(rest))?.to_ne_bytes();
    Some([code, regs, o0, o1, a, b, c, d])
}

/// 64-bit arithmetic as another operation.
fn with_operation(insn: [u8; SLOT_BYTES], pairs: &[(u8, u8)]) -> Option<[u8; SLOT_BYTES]> {
    let pair = pairs.iter().find(|(from, _)| insn[0] & 0xf0 == *from);
    // Nothing is shifted by nothing.
    let shifts = matches!(insn[0], 0x67 | 0x77);
    (insn[0] & 7 == 7 && !(shifts && insn[4..] == [0; 4]))
        .then_some(pair?)
        .map(|(_, to)| with_code(insn, insn[0] & 15 | to))
}

/// Bytes of a load that is not of the stack.
fn load(insn: [u8; SLOT_BYTES]) -> Option<i16> {
    let size = [4, 2, 1, 8][usize::from(insn[0] >> 3 & 3)];
    (insn[0] & 0xe7 == 0x61 && insn[1] >> 4 != 10).then_some(size)
}
