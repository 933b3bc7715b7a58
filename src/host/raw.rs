//! What safe Rust cannot say: system calls with masks of any length, and a stack that nothing walks.
//!
//! This is the only file with `unsafe` in it.

#![allow(unsafe_code)]

use std::io;

/// Writes the affinity of task `tid` to `mask`; returns how many bytes of it the kernel has written.
///
/// # Errors
/// `ESRCH` when there is no such task, `EINVAL` when the kernel's mask is longer.
pub fn affinity(tid: i32, mask: &mut [u8]) -> io::Result<usize> {
    let start = mask.as_mut_ptr();
    // SAFETY: the kernel writes at most `mask.len()` bytes to `mask`.
    let written = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len(), start) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// Sets the affinity of task `tid`; the kernel extends the mask by zeros.
///
/// # Errors
/// As `sched_setaffinity(2)`.
pub fn set_affinity(tid: i32, mask: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads at most `mask.len()` bytes of `mask`.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) };
    done(result)
}

/// Sets policy and priority of task `tid`.
///
/// # Errors
/// As `sched_setscheduler(2)`.
pub fn set_scheduler(tid: i32, policy: u32, priority: u32) -> io::Result<()> {
    // The kernel's `struct sched_param` is one int (`include/uapi/linux/sched/types.h`).
    let parameter = &raw const priority;
    // SAFETY: the kernel reads one int at the address of `priority`, which lives until the call
    // returns, and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, tid, policy, parameter) };
    done(result)
}

fn done(result: libc::c_long) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The interface of the unwinder, in place of libgcc's: nothing goes through the stack of a program whose
/// panics abort, except for a backtrace, which would be one of addresses without names. So neither the
/// tables for that are in the binary (`build.rs`), nor libgcc's reader of them, nor what std needs to turn
/// addresses into names: 1 MB in all.
#[cfg(panic = "abort")]
mod unwinder {
    use std::ffi::c_int;
    use std::process::abort;

    /// `_URC_END_OF_STACK`
    const END_OF_STACK: c_int = 5;

    /// Says that the stack ends here: a backtrace is empty.
    // SAFETY: the name is that of libgcc's function, and so is what is returned. The parameters, a function
    // and what it is called with for each frame, are left where they are.
    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Backtrace() -> c_int {
        END_OF_STACK
    }

    /// Defines functions that only somebody who unwinds would call; all of libgcc's file that has them, or
    /// the linker would take that as well.
    macro_rules! nobody_calls {
        ($($name:ident)*) => { $(
            // SAFETY: the name is that of libgcc's function; a call does not return.
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> ! {
                abort()
            }
        )* };
    }

    nobody_calls! {
        _Unwind_DeleteException _Unwind_FindEnclosingFunction _Unwind_ForcedUnwind _Unwind_GetCFA
        _Unwind_GetDataRelBase _Unwind_GetGR _Unwind_GetIP _Unwind_GetIPInfo
        _Unwind_GetLanguageSpecificData _Unwind_GetRegionStart _Unwind_GetTextRelBase
        _Unwind_RaiseException _Unwind_Resume _Unwind_Resume_or_Rethrow _Unwind_SetGR _Unwind_SetIP
        __frame_state_for
    }
}
