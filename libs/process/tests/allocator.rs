//! Memory that is given back goes back to the kernel. A process of its own, because the allocator is one for all threads.

#![cfg(target_env = "gnu")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{fs, hint::black_box};

/// Bytes of a piece: a folder of Git with ten thousand names.
const PIECE: usize = 400 << 10;
const PIECES: usize = 100;

fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn pieces_go_back_also_when_small_ones_between_them_stay() {
    process::keep_little_memory();
    // The allocator's own rule: what is given back once is thought to be needed again, and stays.
    drop(black_box(vec![1_u8; 2 * PIECE]));
    let before = resident_kib();
    let (large, small): (Vec<_>, Vec<_>) = (0..PIECES).map(|_| (vec![1_u8; PIECE], vec![1_u8; 64])).unzip();
    let full = resident_kib();
    assert!(full > before + PIECES * (PIECE >> 10) / 2, "the pieces are there: {before} to {full} KiB");
    drop(black_box(large));
    let after = resident_kib();
    assert!(after < before + (full - before) / 4, "{after} KiB are left of {full}, before it were {before}");
    drop(black_box(small));

    // Small pieces, of which one in a hundred stays: their pages are scattered, and the allocator keeps all between them.
    let mut pieces: Vec<Option<Vec<u8>>> = (0..PIECES * 1_000).map(|_| Some(vec![1_u8; 400])).collect();
    let full = resident_kib();
    pieces.iter_mut().enumerate().filter(|(at, _)| at % 100 != 0).for_each(|(_, piece)| *piece = None);
    let kept = resident_kib();
    assert!(kept > full - full / 4, "{kept} KiB of {full}: the allocator gave them back by itself");
    process::give_back_free_memory();
    let after = resident_kib();
    assert!(after < before + (kept - before) / 2, "{after} KiB are left of {kept}, before it were {before}");
    drop(black_box(pieces));
}
