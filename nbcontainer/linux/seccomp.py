"""The seccomp filter of a container: which system calls its processes may make.

An allow list on the lines of Docker's default profile, and tighter than it where notebooks lose nothing: one machine
type (no 32-bit calls), no io_uring, the usual kinds of sockets only, and no new namespaces. What is known and refused
answers EPERM. What is unknown answers ENOSYS, so that programs fall back as they do on an older Linux. libseccomp turns
it into a program for Linux's filter machine, once for each set of capabilities.
"""

from __future__ import annotations

import errno
import functools
import platform
from collections.abc import Iterable

from nbcontainer.errors import HostError
from nbcontainer.linux import syscalls
from nbcontainer.linux.syscalls import Comparison, FilterRule

FILES = (
    "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate "
    "fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr "
    "fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 "
    "inotify_rm_watch ioctl lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat memfd_create "
    "mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read "
    "readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr setxattrat splice "
    "stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice "
    "write writev cachestat"
)
MEMORY = (
    "brk madvise membarrier memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock munlockall munmap "
    "pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages map_shadow_stack"
)
PROCESSES = (
    "alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake "
    "get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority "
    "getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset "
    "landlock_restrict_self modify_ldt pause pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace "
    "restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler "
    "sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list "
    "set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid "
    "setreuid setrlimit setsid setuid sigaltstack tgkill tkill vfork wait4 waitid"
)
WAITING_AND_TIME = (
    "adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 "
    "epoll_wait eventfd eventfd2 getrandom gettimeofday io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit nanosleep "
    "poll ppoll pselect6 select signalfd signalfd4 sysinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_settime "
    "timerfd_create timerfd_gettime timerfd_settime times uname"
)
MESSAGES = (
    "accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend "
    "mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 recvfrom recvmmsg recvmsg semctl semget semop semtimedop sendmmsg sendmsg sendto "
    "setsockopt shmat shmctl shmdt shmget shutdown socketpair"
)
ALLOWED = f"{FILES} {MEMORY} {PROCESSES} {WAITING_AND_TIME} {MESSAGES}".split()

WITH_CAPABILITY = {
    "DAC_READ_SEARCH": "open_by_handle_at",
    "SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree "
    "perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare listmount statmount",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module init_module finit_module",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "iopl ioperm",
    "SYS_TIME": "settimeofday clock_settime",
    "SYS_TTY_CONFIG": "vhangup",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYSLOG": "syslog",
    "BPF": "bpf",
    "PERFMON": "perf_event_open",
}
"""Calls that are only allowed with a capability that --cap-add gives."""

REFUSED = (
    "add_key io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl migrate_pages move_pages nfsservctl "
    "personality pivot_root request_key swapoff swapon uselib userfaultfd ustat _sysctl sysfs"
).split()
"""Never allowed, with an answer of EPERM; so are those of WITH_CAPABILITY without their capability."""

PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
NAMESPACE_FLAGS = 0x7E020000
"""All CLONE_NEW* that fit into clone's flags; CLONE_NEWTIME does not."""
CLONE_PARENT = 0x8000
"""In a shared pid namespace the child would be the zygote's, which does not know it: a zombie for as long as the kernel lives."""
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17


def rules(capabilities: Iterable[str]) -> list[FilterRule]:
    """The whole filter for processes that can have at most ``capabilities`` (without the CAP_ prefix)."""
    held = set(capabilities)
    allowed, refused = set(ALLOWED), set(REFUSED) - {"personality"}
    for capability, names in WITH_CAPABILITY.items():
        if capability in held:
            allowed.update(names.split())
        else:
            refused.update(names.split())
    refused -= allowed
    found = [FilterRule(name) for name in sorted(allowed)]
    found += [FilterRule("personality", comparison=Comparison(0, "==", value)) for value in PERSONALITIES]
    if "SYS_ADMIN" not in held:
        # clone3 has its flags in memory, which a filter cannot read; ENOSYS makes libraries use clone.
        refused -= {"clone", "clone3"}
        found.append(FilterRule("clone", comparison=Comparison(0, "masked", 0, NAMESPACE_FLAGS | CLONE_PARENT)))
        found.append(FilterRule("clone3", errno.ENOSYS))
    found += _socket_rules("NET_RAW" in held)
    return found + [FilterRule(name, errno.EPERM) for name in sorted(refused)]


def _socket_rules(packets: bool) -> list[FilterRule]:
    allowed = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK} | ({AF_PACKET} if packets else set())
    found = [FilterRule("socket", comparison=Comparison(0, "==", family)) for family in sorted(allowed)]
    others = [family for family in range(AF_PACKET + 1) if family not in allowed]
    found += [FilterRule("socket", errno.EAFNOSUPPORT, Comparison(0, "==", family)) for family in others]
    return [*found, FilterRule("socket", errno.EAFNOSUPPORT, Comparison(0, ">", AF_PACKET))]


@functools.cache
def build(capabilities: tuple[str, ...]) -> bytes:
    """The filter as instructions of Linux's filter machine (struct sock_filter). Raises HostError without libseccomp."""
    try:
        return syscalls.build_filter(rules(capabilities), errno.ENOSYS)
    except OSError as error:
        raise HostError(
            f"no seccomp filter can be made on this {platform.machine()} machine: {error.strerror or error}",
            "sudo apt-get install libseccomp2, or --security unconfined",
        ) from None
