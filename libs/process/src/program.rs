//! The program's own file in memory.

use std::fs;

#[cfg(target_os = "linux")]
use rustix::mm::{Advice, madvise};

/// Gives the pages of the program's file that only its start or its last work needed back to the kernel, which may have another use
/// for them: those that are read again come back one by one, mostly out of the kernel's cache and without the disk. The kernel maps
/// sixteen pages for each that is touched, so an agent that has just started has nearly all of its file.
///
/// Only parts that nobody can write and nobody has written are given back. It does nothing where the kernel does not tell which
/// these are.
pub fn give_back_pages_of_the_program() {
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for part in unwritten_parts(&maps, &own.to_string_lossy()) {
        give_back(part);
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the standard library has no word for it")]
fn give_back((begin, end): (usize, usize)) {
    // SAFETY: the pages are a private mapping of the program's file, without the right to write and as they are in the file, so
    // whoever reads them next finds the same bytes. A program that runs cannot be written to; one that was replaced by a rename
    // stays mapped.
    let given = unsafe { madvise(std::ptr::without_provenance_mut(begin), end - begin, Advice::LinuxDontNeed) };
    if let Err(error) = given {
        tracing::debug!(%error, "pages of the program stay");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_back(_part: (usize, usize)) {}

/// Returns begin and end of the mappings of this file that cannot be written and have not been. The linker's tables, which are
/// written once and closed then, are not among them.
fn unwritten_parts(maps: &str, file: &str) -> Vec<(usize, usize)> {
    let mut parts = Vec::new();
    let mut current = None;
    for line in maps.lines() {
        if let Some(part) = part_of(line, file) {
            current = part;
        } else if let Some(dirty) = line.strip_prefix("Private_Dirty:")
            && let Some(part) = current.take()
            && dirty.trim() == "0 kB"
        {
            parts.push(part);
        }
    }
    parts
}

/// Reads the first line of a mapping; `None` for any other line. A mapping that is not meant is `Some(None)`.
fn part_of(line: &str, file: &str) -> Option<Option<(usize, usize)>> {
    let (range, rest) = line.split_once(' ')?;
    let (begin, end) = range.split_once('-')?;
    let parse = |hex| usize::from_str_radix(hex, 16).ok();
    let range = (parse(begin)?, parse(end)?);
    let is_meant = matches!(rest.get(..4), Some("r-xp" | "r--p")) && rest.ends_with(&format!(" {file}"));
    Some(is_meant.then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d000-55e000 r--p 00000000 fe:00 77 /usr/bin/edge-node
Private_Dirty:         0 kB
55e000-55f000 r-xp 00001000 fe:00 77                         /usr/bin/edge-node
VmFlags: rd ex mr mw me
Private_Dirty:         0 kB
55f000-560000 r--p 00002000 fe:00 77                         /usr/bin/edge-node
Private_Dirty:         4 kB
560000-561000 rw-p 00003000 fe:00 77                         /usr/bin/edge-node
Private_Dirty:         0 kB
561000-562000 rw-p 00000000 00:00 0                          [heap]
Private_Dirty:         0 kB
7f0000-7f1000 r-xp 00000000 fe:00 78                         /lib/libc.so.6
Private_Dirty:         0 kB
";

    #[test]
    fn only_what_nobody_can_write_and_nobody_has_written_is_given_back() {
        assert_eq!(unwritten_parts(MAPS, "/usr/bin/edge-node"), [(0x55d000, 0x55e000), (0x55e000, 0x55f000)]);
        assert_eq!(unwritten_parts(MAPS, "/usr/bin/node"), []);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_program_goes_on_after_its_pages_were_given_back() {
        let resident = || {
            let maps = fs::read_to_string("/proc/self/smaps").unwrap();
            let own = fs::read_link("/proc/self/exe").unwrap().display().to_string();
            let mut is_own = false;
            let mut sum = 0;
            for line in maps.lines() {
                if part_of(line, &own).is_some() {
                    is_own = line.contains(" r-xp ") && line.ends_with(&own);
                } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| is_own) {
                    sum += rss.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap();
                }
            }
            sum
        };
        let before = resident();
        give_back_pages_of_the_program();
        let after = resident();
        assert!(before > 0 && after < before, "{after} KiB of {before} are left");
    }
}
