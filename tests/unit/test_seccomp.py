"""The filter against the one that people know: nothing is allowed by default that Docker's default profile refuses."""

from __future__ import annotations

import errno

import pytest

from nbcontainer.linux import capabilities, seccomp
from nbcontainer.linux.syscalls import FilterRule

DOCKER = set(
    """
    accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown clock_adjtime clock_getres clock_gettime
    clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
    epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark
    fchdir fchmod fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate
    futex futex_waitv futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid
    gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents
    io_pgetevents ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
    lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create memfd_secret mincore
    mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend
    mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease
    process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam
    sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop send sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid
    setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list setsid setsockopt set_thread_area
    set_tid_address setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketcall socketpair splice stat statfs
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork
    vmsplice wait4 waitid write writev
    """.split()
)
"""The names of Docker's default profile for x86_64 that need no capability, as of Docker 24, without io_uring, which later versions refuse."""
DOCKER_SINCE = set("cachestat fchmodat2 futex_requeue futex_wait futex_wake getxattrat listxattrat map_shadow_stack mseal removexattrat setxattrat".split())
"""What later versions of it have added: calls that Linux had not got before, and that give no more than older ones."""
WITH_ARGUMENTS = {"clone", "personality", "socket"}
"""Allowed there and here only with certain arguments; the escape probes try the others."""


def allowed(rules: list[FilterRule]) -> set[str]:
    return {rule.name for rule in rules if rule.errno == 0}


def test_nothing_is_allowed_by_default_that_docker_refuses() -> None:
    default = capabilities.choose((), ())
    more = allowed(seccomp.rules(default)) - DOCKER - DOCKER_SINCE - WITH_ARGUMENTS
    assert more == {"chroot"}, "which Docker allows with SYS_CHROOT, one of its default capabilities and of ours"
    assert allowed(seccomp.rules(())) <= DOCKER | DOCKER_SINCE | WITH_ARGUMENTS


@pytest.mark.parametrize("name", ["io_uring_setup", "keyctl", "bpf", "userfaultfd", "mount", "unshare", "setns", "open_by_handle_at", "kexec_load", "pidfd_getfd"])
def test_what_leads_out_is_refused_by_name(name: str) -> None:
    rules = seccomp.rules(capabilities.choose((), ()))
    assert [rule.errno for rule in rules if rule.name == name] == [errno.EPERM]


def test_a_capability_brings_its_calls_and_no_others() -> None:
    default = allowed(seccomp.rules(capabilities.choose((), ())))
    for capability, names in seccomp.WITH_CAPABILITY.items():
        brought = allowed(seccomp.rules(capabilities.choose((capability,), ()))) - default
        assert brought <= set(names.split()), capability
