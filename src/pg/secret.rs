//! Memory for secrets: pages of their own that are left out of core files and kept out of swap.

use std::cell::UnsafeCell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use zeroize::Zeroize;

/// How well the pages are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// Excluded from core files (MADV_DONTDUMP).
    pub undumpable: bool,
    /// Cannot be swapped out (mlock); false where RLIMIT_MEMLOCK is too low.
    pub locked: bool,
}

fn map(bytes: usize, sharing: libc::c_int) -> Option<(*mut u8, Protection)> {
    let address = map_unprotected(bytes, sharing)?.cast();
    // SAFETY: both calls get exactly the mapping made above.
    let protection = unsafe {
        Protection {
            undumpable: libc::madvise(address, bytes, libc::MADV_DONTDUMP) == 0,
            locked: libc::mlock(address, bytes) == 0,
        }
    };
    Some((address.cast(), protection))
}

fn map_unprotected(bytes: usize, sharing: libc::c_int) -> Option<*mut u8> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_ANONYMOUS | sharing,
            -1,
            0,
        )
    };
    (address != libc::MAP_FAILED).then_some(address.cast())
}

/// Bytes that one process publishes and all others read, for the server's life: a mapping that the postmaster makes and
/// every later process inherits. Unlike PostgreSQL's own shared memory it survives the crash of a backend.
///
/// Two buffers and a generation: generation g lies in buffer g % 2, so a reader is only disturbed when two publications
/// happen while it copies, and then sees that by the generation.
pub struct SharedSecret<const N: usize> {
    generation: AtomicU64,
    buffers: [UnsafeCell<[u8; N]>; 2],
}

// SAFETY: the generation is atomic; the buffers are written under the caller's lock and read as described above.
unsafe impl<const N: usize> Sync for SharedSecret<N> {}

impl<const N: usize> SharedSecret<N> {
    /// Maps the memory. None if the system gives none.
    pub fn map() -> Option<(&'static Self, Protection)> {
        let (address, protection) = map(size_of::<Self>(), libc::MAP_SHARED)?;
        // SAFETY: the mapping is zeroed, page-aligned, large enough and never unmapped, and zero bytes are a valid Self.
        Some((unsafe { &*address.cast::<Self>() }, protection))
    }

    /// 0 before the first publication, then one more with each.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Publishes new bytes. One publisher at a time: the caller holds a lock or is the only process yet.
    pub fn publish(&self, bytes: &[u8; N]) {
        let next = self.generation.load(Ordering::Relaxed) + 1;
        // Byte by byte: the compiler cannot take a large array in one volatile access.
        let buffer = self.buffers[(next % 2) as usize].get().cast::<u8>();
        for (at, byte) in bytes.iter().enumerate() {
            // SAFETY: within the buffer; readers of the current generation use the other one, and there is one publisher.
            unsafe { buffer.add(at).write_volatile(*byte) };
        }
        self.generation.store(next, Ordering::Release);
    }

    /// Copies the newest bytes out and returns their generation.
    pub fn read(&self, into: &mut [u8; N]) -> u64 {
        loop {
            let before = self.generation();
            let buffer = self.buffers[(before % 2) as usize].get().cast::<u8>();
            for (at, byte) in into.iter_mut().enumerate() {
                // SAFETY: within the buffer; a torn copy is thrown away below.
                *byte = unsafe { buffer.add(at).read_volatile() };
            }
            fence(Ordering::Acquire);
            if self.generation.load(Ordering::Relaxed) == before {
                return before;
            }
        }
    }
}

/// Atomics that all processes share from now on, and that are no secret: a mapping that the postmaster makes and every later process
/// inherits. All zero at first. None if the system gives no memory.
pub fn share<T: super::shmem::Shared>() -> Option<&'static T> {
    let address = map_unprotected(size_of::<T>(), libc::MAP_SHARED)?;
    // SAFETY: the mapping is zeroed, page-aligned, large enough and never unmapped, and zero bytes are a value of T.
    Some(unsafe { &*address.cast::<T>() })
}

/// Values on private pages, zeroized and unmapped on drop.
pub struct SecretPages<T> {
    address: *mut T,
    count: usize,
    bytes: usize,
}

impl<T> SecretPages<T> {
    /// Builds `count` values in place. None if no memory can be mapped.
    pub fn build(count: usize, mut make: impl FnMut(usize) -> T) -> Option<Self> {
        let bytes = (count * size_of::<T>()).max(1).next_multiple_of(4096);
        let (address, _) = map(bytes, libc::MAP_PRIVATE)?;
        let address = address.cast::<T>();
        for index in 0..count {
            // SAFETY: the mapping has room for `count` values, and nothing was written here before.
            unsafe { address.add(index).write(make(index)) };
        }
        Some(Self { address, count, bytes })
    }
}

impl<T> Deref for SecretPages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `build` initialised that many values, and they live until drop.
        unsafe { std::slice::from_raw_parts(self.address, self.count) }
    }
}

impl<T> Drop for SecretPages<T> {
    fn drop(&mut self) {
        // SAFETY: the values are dropped once, then their pages are cleared and given back; nobody borrows them any more.
        unsafe {
            std::ptr::drop_in_place(std::ptr::slice_from_raw_parts_mut(self.address, self.count));
            std::slice::from_raw_parts_mut(self.address.cast::<u8>(), self.bytes).zeroize();
            libc::munmap(self.address.cast(), self.bytes);
        }
    }
}

/// A ring is 6 KiB, and an unoptimised build copies it at each move. Sealing goes deepest, 15.4 kB in a release build (measured on x86-64 by
/// filling the stack with a pattern beforehand), and below it may lie the frame of a signal, which has all registers: 3.6 kB with AVX-512.
/// What is scrubbed becomes memory of each process.
const RING_STACK_BYTES: usize = if cfg!(debug_assertions) { 64 << 10 } else { 24 << 10 };

/// The same for one use of a cipher: 9.4 kB, and the frame of a signal.
const CIPHER_STACK_BYTES: usize = if cfg!(debug_assertions) { 64 << 10 } else { 16 << 10 };

/// Does work that has keys in its hands, and then overwrites the part of the stack that it has used for a ring, so that no copy of a
/// key that the compiler left there stays for a core file or for a process that inherits it; and the registers. Also if it unwinds.
pub fn scrubbed<T>(work: impl FnOnce() -> T) -> T {
    let _scrub = Scrub::<RING_STACK_BYTES>;
    apart(work)
}

/// The same for one use of a cipher, which spills round keys: there are more of them than vector registers.
pub fn scrubbed_cipher<T>(work: impl FnOnce() -> T) -> T {
    let _scrub = Scrub::<CIPHER_STACK_BYTES>;
    apart(work)
}

/// Gives the work a frame of its own, below that of the caller, so that its own variables are overwritten, too.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

struct Scrub<const BYTES: usize>;

impl<const BYTES: usize> Drop for Scrub<BYTES> {
    fn drop(&mut self) {
        // The registers first: a signal that comes meanwhile leaves them on the stack.
        scrub_registers();
        overwrite_stack::<BYTES>();
    }
}

#[inline(never)]
fn overwrite_stack<const BYTES: usize>() {
    let mut below = [0u8; BYTES];
    std::hint::black_box(&mut below);
}

/// Clears the vector registers, in which AES leaves round keys: a process that waits keeps them there, its children
/// inherit them, and a core file has them.
#[cfg(target_arch = "x86_64")]
fn scrub_registers() {
    // SAFETY: the processor has the instructions that are used, and all registers written to are declared as clobbered.
    unsafe {
        if std::is_x86_feature_detected!("avx512f") {
            scrub_avx512();
        } else if std::is_x86_feature_detected!("avx") {
            scrub_avx();
        } else {
            scrub_sse();
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn scrub_registers() {}

/// # Safety
/// The processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn scrub_avx512() {
    macro_rules! clear {
        ($($register:literal)*) => {
            // SAFETY: the caller vouches for the instructions; the ABI's clobbers are all vector registers.
            unsafe {
                std::arch::asm!(
                    "vzeroall",
                    $(concat!("vpxord zmm", $register, ", zmm", $register, ", zmm", $register)),*,
                    clobber_abi("sysv64"), options(nostack, preserves_flags),
                )
            }
        };
    }
    clear!(16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
}

/// # Safety
/// The processor has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn scrub_avx() {
    // SAFETY: the caller vouches for the instruction; the ABI's clobbers are all vector registers.
    unsafe { std::arch::asm!("vzeroall", clobber_abi("sysv64"), options(nostack, preserves_flags)) }
}

#[cfg(target_arch = "x86_64")]
fn scrub_sse() {
    macro_rules! clear {
        ($($register:literal)*) => {
            // SAFETY: every x86-64 processor has SSE2; the ABI's clobbers are all vector registers.
            unsafe {
                std::arch::asm!(
                    $(concat!("pxor xmm", $register, ", xmm", $register)),*,
                    clobber_abi("sysv64"), options(nostack, preserves_flags),
                )
            }
        };
    }
    clear!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}
