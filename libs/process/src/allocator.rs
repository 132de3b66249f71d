//! What the allocator keeps of memory that the program has given back.

/// The size in bytes from which on a piece of memory goes back to the kernel as soon as it is given back. It is the C
/// library's own first value, 128 KiB, which otherwise rises with what the program gives back, up to 32 MiB.
const LARGE: i32 = 128 << 10;

/// How many bytes may lie free at the end of a service's heap before they go back to the kernel. With the C library's own
/// 128 KiB git-writer gave memory back and asked for it again with every order, which took a twentieth of its time.
const FREE: i32 = 1 << 20;

/// How many bytes more than it needs the allocator of a service asks the kernel for.
const AHEAD: i32 = 256 << 10;

/// Has the C library's allocator keep little of what the program has needed once: large pieces go back to the kernel at
/// once, and there are no more arenas than processors, at least two. Otherwise each thread has one of its own and keeps
/// there what it needed at its worst time: a git-writer with ten thousand orders kept 107 MiB instead of 37, an agent with a
/// hundred workloads 4 MiB more.
///
/// Call it before any other thread runs. It does nothing where the C library is not glibc.
pub fn keep_little_memory() {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    set(processors.try_into().unwrap_or(i32::MAX).max(2));
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

#[cfg(not(target_env = "gnu"))]
fn set(_arenas: i32) {}

/// Does the same for a service, which works in bursts on a machine that has some MiB to spare: a MiB at the end of the heap may
/// stay.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the standard library has no word for it")]
pub fn keep_little_memory_of_a_service() {
    keep_little_memory();
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE);
        libc::mallopt(libc::M_TOP_PAD, AHEAD);
    }
}

/// Does nothing here.
#[cfg(not(target_env = "gnu"))]
pub fn keep_little_memory_of_a_service() {}
