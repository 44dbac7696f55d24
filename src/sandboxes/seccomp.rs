//! The system calls that a command in `bubblewrap` or in a container does not get.
//!
//! A list of what is denied, not of what is allowed: toolchains use everything that is ordinary, and a new kernel's
//! calls must not break them. What is here either makes no sense without privileges or is where kernels were broken
//! into by people who had none. Denied calls fail, they do not kill, so that programs take their other way.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

/// Never granted, whatever the arguments: `EPERM`.
const DENIED: &[i64] = &[
    // Mounts: the sandbox's root is as it is.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    // Other namespaces.
    libc::SYS_setns,
    // Files past the walls of folders and mounts.
    libc::SYS_open_by_handle_at,
    // Programs for the kernel, and what looks into it.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_syslog,
    // Keys are the user's, in no namespace of their own.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lookup_dcookie,
];

/// As if the kernel did not have them, which is what libraries and runtimes are prepared for: `ENOSYS`. The arguments
/// of `clone3` lie in memory, where a filter cannot look; without it `clone` is used.
const UNKNOWN: &[i64] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Flags of `clone` and `unshare` that make a namespace: mount, cgroup, uts, ipc, user, pid, net.
const NAMESPACES: [u64; 7] = [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// In `clone` this bit belongs to a signal's number.
const TIME_NAMESPACE: u64 = 0x80;

/// What `personality` may be: Linux, the same with 32 bits or an old version's name, without address randomisation (for
/// debuggers and sanitizers), and the question.
const PERSONALITIES: [u64; 6] = [0, 8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff];

/// Requests that type into a terminal.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

const AF_NETLINK: u64 = 16;
/// Unix, IPv4, IPv6, and netlink for what C libraries ask about interfaces.
const FAMILIES: [u64; 4] = [1, 2, 10, AF_NETLINK];
const NETLINK_ROUTE: u64 = 0;

/// Restricts this thread and what it starts, for good. Programs for another processor than this one's, 32-bit ones
/// included, end with `SIGSYS`.
pub(super) fn restrict() -> io::Result<()> {
    let rules = rules().and_then(|filters| {
        filters.into_iter().map(|(rules, errno)| program(rules, errno)).collect::<Result<Vec<_>, _>>()
    });
    for program in rules.map_err(io::Error::other)? {
        apply_filter(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Built<T> = Result<T, seccompiler::BackendError>;

/// Each with the error that its calls get.
fn rules() -> Built<[(Rules, u32); 3]> {
    let always = |calls: &[i64]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
    let mut denied = always(DENIED);
    let mut namespaces = NAMESPACES.iter().map(|flag| when(&[has(0, *flag)])).collect::<Built<Vec<_>>>()?;
    denied.insert(libc::SYS_clone, namespaces.clone());
    namespaces.push(when(&[has(0, TIME_NAMESPACE)])?);
    denied.insert(libc::SYS_unshare, namespaces);
    denied.insert(libc::SYS_personality, vec![when(&PERSONALITIES.map(|known| is_not(0, known)))?]);
    denied.insert(libc::SYS_ioctl, vec![when(&[is(1, TIOCSTI)])?, when(&[is(1, TIOCLINUX)])?]);
    let family = when(&FAMILIES.map(|known| is_not(0, known)))?;
    let netlink = when(&[is(0, AF_NETLINK), is_not(2, NETLINK_ROUTE)])?;
    let families: Rules =
        [libc::SYS_socket, libc::SYS_socketpair].map(|call| (call, vec![family.clone(), netlink.clone()])).into();
    Ok([(denied, libc::EPERM as u32), (always(UNKNOWN), libc::ENOSYS as u32), (families, libc::EAFNOSUPPORT as u32)])
}

/// A condition on an argument, by number. The kernel looks at the lower half of those that are compared here.
type Condition = (u8, SeccompCmpOp, u64);

fn is(argument: u8, value: u64) -> Condition {
    (argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: u64) -> Condition {
    (argument, SeccompCmpOp::Ne, value)
}

fn has(argument: u8, flag: u64) -> Condition {
    (argument, SeccompCmpOp::MaskedEq(flag), flag)
}

/// A rule that holds when all of these do.
fn when(conditions: &[Condition]) -> Built<SeccompRule> {
    let condition = |(argument, how, value): &Condition| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, how.clone(), *value)
    };
    SeccompRule::new(conditions.iter().map(condition).collect::<Built<_>>()?)
}

fn program(rules: Rules, errno: u32) -> Built<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)?;
    let mut program: BpfProgram = if cfg!(target_arch = "x86_64") { no_x32().into() } else { Vec::new() };
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// Calls of the x32 ABI look like those of x86-64 with another number, and would pass by every rule: `EPERM` for all.
fn no_x32() -> [sock_filter; 3] {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32: u32 = 0x4000_0000;
    [
        sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: X32 },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 },
    ]
}
