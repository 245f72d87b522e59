"""What Linux's log says of a container that was killed for memory, on both versions of control groups."""

from __future__ import annotations

from nbcontainer.engine.kernel_log import OomReport, read_report

ID = "c47ddbcef4d8"


def log(*lines: str) -> list[str]:
    return [f"6,{1000 + index},17903928345,-;{line}\n" for index, line in enumerate(lines)]


def killing(cgroup: str, stats: list[str], name: str = "python", pid: int = 1388) -> list[str]:
    return [
        "memory: usage 65536kB, limit 65536kB, failcnt 0",
        f"Memory cgroup stats for {cgroup}:",
        *stats,
        "Tasks state (memory values in pages):",
        "[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name",
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg={cgroup},task_memcg={cgroup},task={name},pid={pid},uid=0",
        f"Memory cgroup out of memory: Killed process {pid} ({name}) total-vm:241712kB, anon-rss:84100kB",
    ]


V1 = ["cache 0", "rss 1", "shmem 0", "total_cache 5000", "total_rss 66912256", "total_rss_huge 0", "total_shmem 2000"]
V2 = ["anon 66912256", "file 5000", "kernel 4096", "shmem 2000", "file_mapped 0"]
KINDS = {"anon": 66912256, "file": 3000, "shmem": 2000}


def test_both_versions() -> None:
    for stats in (V1, V2):
        records = log("something else", *killing(f"/nbcontainer/nbc-1/{ID}", stats), "anon 7")
        assert read_report(records, ID, 1388) == OomReport(("python (pid 1388)",), KINDS)


def test_other_containers_are_not_taken_for_it() -> None:
    records = log(*killing("/nbcontainer/nbc-1/0123456789ab", V2, "sh", 7))
    assert read_report(records, ID, 1388) == OomReport()
    both = log(*killing(f"/nbcontainer/nbc-1/{ID}", V2), *killing("/nbcontainer/nbc-1/0123456789ab", ["anon 1", "file 2", "shmem 0"], "sh", 7))
    assert read_report(both, ID, 1388) == OomReport(("python (pid 1388)",), KINDS)


def test_the_last_kill_counts_and_each_process_is_named() -> None:
    first = killing(f"/p/{ID}", ["anon 1", "file 2", "shmem 2"], "child, really", 1400)
    records = log(*first, *killing(f"/p/{ID}", V2))
    assert read_report(records, ID, 1388) == OomReport(("child, really (pid 1400)", "python (pid 1388)"), KINDS)


def test_what_was_left_out_of_the_log() -> None:
    """Linux says at most so much in a time: then only the last line is there."""
    records = log("Memory cgroup out of memory: Killed process 1388 (python) total-vm:1kB")
    assert read_report(records, ID, 1388) == OomReport(("python (pid 1388)",), {})
    assert read_report(log(f"Memory cgroup stats for /p/{ID}:", "anon 1", "Tasks state (memory values in pages):"), ID, 1388) == OomReport()
