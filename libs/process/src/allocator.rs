//! What the allocator keeps of memory that the program has given back.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

use crate::give_back_pages_of_the_program;

/// The size in bytes from which on a piece of memory goes back to the kernel as soon as it is given back. It is the C
/// library's own first value, 128 KiB, which otherwise rises with what the program gives back, up to 32 MiB.
const LARGE: i32 = 128 << 10;

/// How many bytes may lie free at the end of a service's heap before they go back to the kernel. With the C library's own
/// 128 KiB git-writer gave memory back and asked for it again with every order, which took a twentieth of its time.
const FREE: i32 = 1 << 20;

/// How many bytes more than it needs the allocator of a service asks the kernel for.
const AHEAD: i32 = 256 << 10;

/// How often [`give_back_at_rest`] looks what the program has done.
const LOOK: Duration = Duration::from_secs(3);

/// A program that took less processor time since the last look rests: half a percent of one processor, and an idle agent takes a
/// tenth.
const RESTS: Duration = Duration::from_millis(15);

/// Has the C library's allocator keep little of what the program has needed once: large pieces go back to the kernel at once, and
/// all threads share one arena. Otherwise each thread has one of its own and keeps there what it needed at its worst time. An
/// agent has one busy thread, so nobody waits for the arena.
///
/// Call it before any other thread runs. It does nothing where the C library is not glibc.
pub fn keep_little_memory() {
    set(1);
}

/// Does the same for a service, which works in bursts on a machine that has some MiB to spare: it has as many arenas as there are
/// processors, and a MiB at the end of the heap may stay. With an arena for each thread a git-writer with ten thousand orders
/// kept 107 MiB instead of 37.
pub fn keep_little_memory_of_a_service() {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    set(processors.try_into().unwrap_or(i32::MAX).max(2));
    set_reserve();
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the standard library has no word for it")]
fn set(arenas: i32) {
    // SAFETY: mallopt takes two numbers. A refusal leaves the limit as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the standard library has no word for it")]
fn set_reserve() {
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE);
        libc::mallopt(libc::M_TOP_PAD, AHEAD);
    }
}

/// Gives every page in which nothing lies any more back to the kernel, wherever it is. Until it ends nobody gets memory.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the standard library has no word for it")]
pub fn give_back_free_memory() {
    // SAFETY: malloc_trim takes a number, and touches only what lies free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn set(_arenas: i32) {}

#[cfg(not(target_env = "gnu"))]
fn set_reserve() {}

/// Does nothing here.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_free_memory() {}

/// Gives memory and pages of the program back each time the program rests after it has worked: small pieces that live keep whole
/// parts of the heap otherwise. It never ends.
pub async fn give_back_at_rest() -> std::convert::Infallible {
    let mut rest = Rest::default();
    let mut before = processor_time();
    loop {
        sleep(LOOK).await;
        let now = processor_time();
        if rest.begins(now.saturating_sub(before)) {
            give_back_free_memory();
            give_back_pages_of_the_program();
        }
        // With what giving back took: that is no work.
        before = processor_time();
    }
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// Whether the program has worked since it rested last; a start is work.
struct Rest {
    has_worked: bool,
}

impl Default for Rest {
    fn default() -> Self {
        Self { has_worked: true }
    }
}

impl Rest {
    /// Whether a rest begins with this look, since which the program took so much processor time.
    fn begins(&mut self, used: Duration) -> bool {
        if used >= RESTS {
            self.has_worked = true;
            return false;
        }
        std::mem::take(&mut self.has_worked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_begins_once_after_work() {
        let (much, little) = (RESTS, RESTS / 2);
        let mut rest = Rest::default();
        let begun = [much, much, little, little, Duration::ZERO, much, little, little].map(|used| rest.begins(used));
        assert_eq!(begun, [false, false, true, false, false, false, true, false]);
    }

    #[test]
    fn processor_time_is_that_of_this_process_and_rises() {
        let before = processor_time();
        while processor_time() == before {
            std::hint::black_box(0);
        }
        assert!(before > Duration::ZERO);
    }
}
