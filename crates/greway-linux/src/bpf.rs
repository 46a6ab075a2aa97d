//! What is asked of the kernel's BPF here and not through a library: which programs are at a device, and one run of a
//! program on bytes of ours, for tests of the programs.

use std::ffi::CString;
use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// What it returned.
    pub verdict: u32,
    /// The packet afterwards, from its link header on.
    pub packet: Vec<u8>,
}

/// Runs `program`, a tc classifier, once on `packet`, an Ethernet frame. `context` is its `struct __sk_buff`
/// (include/uapi/linux/bpf.h): of it the kernel takes mark, priority, device, `gso_size` and `gso_segs`, and the rest
/// must be zero. Afterwards it holds what the program left there.
///
/// # Errors
/// EINVAL for a frame shorter than 14 bytes or a context that asks for more than may be given; ENODEV for a device
/// that is not in the calling thread's network namespace; EPERM without CAP_BPF.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8], context: &mut [u8]) -> io::Result<TestRun> {
    // Room for the longest header that a program may put in front.
    let mut out = vec![0; packet.len() + 512];
    let given = context.to_vec();
    let mut attr = TestRunAttr {
        program: program.as_raw_fd() as u32,
        verdict: 0,
        size_in: packet.len() as u32,
        size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        duration: 0,
        context_size_in: given.len() as u32,
        context_size_out: context.len() as u32,
        context_in: given.as_ptr() as u64,
        context_out: context.as_mut_ptr() as u64,
        flags: 0,
        cpu: 0,
        batch_size: 0,
        reserved: 0,
    };
    let size = size_of_val(&attr);
    // SAFETY: bpf(2), BPF_PROG_TEST_RUN: the kernel reads `size` bytes of the attributes, reads the input buffers and
    // writes the output buffers, each within the size given for it; all of them live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.size_out as usize);
    Ok(TestRun { verdict: attr.verdict, packet: out })
}

/// The numbers of the programs at tcx ingress of a device, first to last. This needs CAP_NET_ADMIN alone; to make
/// descriptors from the numbers, as libraries do in the same breath, takes CAP_SYS_ADMIN.
///
/// # Errors
/// EINVAL on a kernel without tcx (before Linux 6.6); ENODEV for a device that is not in the calling thread's network
/// namespace; EPERM without CAP_NET_ADMIN.
pub fn tcx_ingress(ifindex: u32) -> io::Result<Vec<u32>> {
    tcx(ifindex, BPF_TCX_INGRESS)
}

/// The same at tcx egress.
///
/// # Errors
/// As [`tcx_ingress`].
pub fn tcx_egress(ifindex: u32) -> io::Result<Vec<u32>> {
    tcx(ifindex, BPF_TCX_EGRESS)
}

fn tcx(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    // The kernel allows 64 programs at one hook (kernel/bpf/mprog.c, BPF_MPROG_MAX).
    let mut programs = vec![0u32; 64];
    let mut attr = QueryAttr {
        ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr() as u64,
        count: programs.len() as u32,
        reserved: 0,
        others: [0; 3],
        revision: 0,
    };
    let size = size_of_val(&attr);
    // SAFETY: bpf(2), BPF_PROG_QUERY: the kernel reads `size` bytes of the attributes, writes the count and the revision
    // in them, and no more than `count` numbers to the buffer; both live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    programs.truncate(attr.count as usize);
    Ok(programs)
}

/// The index of the device that a pinned link of a tc program is attached to; 0 when that device is gone, or its network
/// namespace is.
///
/// # Errors
/// ENOENT where nothing is pinned; EPERM without CAP_BPF; EINVAL for what is no link of a device.
pub fn device_of_pinned_link(path: &Path) -> io::Result<u32> {
    let link = open_pinned(path)?;
    let facts = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", link.as_raw_fd()))?;
    let index = facts.lines().find_map(|line| line.strip_prefix("ifindex:"));
    index.and_then(|index| index.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjectAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: bpf(2), BPF_OBJ_GET: the kernel reads the attributes and the path, which ends with a zero; both live until
    // the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of_val(&attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The part of `union bpf_attr` for pinned objects.
#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

const _: () = assert!(size_of::<ObjectAttr>() == 16);

/// The `query` part of `union bpf_attr`.
#[repr(C)]
struct QueryAttr {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    reserved: u32,
    /// `prog_attach_flags`, `link_ids` and `link_attach_flags`: not asked for.
    others: [u64; 3],
    revision: u64,
}

const _: () = assert!(size_of::<QueryAttr>() == 64);

/// The `test` part of `union bpf_attr`.
#[repr(C)]
struct TestRunAttr {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<TestRunAttr>() == 80);

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
