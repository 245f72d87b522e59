"""Options and verbs that Docker has and this does not: what to write instead."""

from __future__ import annotations

_NO_LABELS = "containers have no labels; --name gives one a name"
_NO_DEVICES = "a container has the usual six devices of /dev, and no others"
_NETWORKS_ANSWER = "containers on one --net find each other by name, and the host's names are answered there"
_RUNS_ONCE = "a container runs once; start it anew"
_NO_CHECKS = "nothing checks a container's health; ps and wait say whether it runs"
_KEEPS_THE_HOST_S = "--share {0} keeps the host's"

OPTIONS = {
    "--add-host": _NETWORKS_ANSWER,
    "--cgroupns": _KEEPS_THE_HOST_S.format("cgroup"),
    "--cidfile": "--name gives it a name, and ps -q prints ids",
    "--cpu-period": "write --cpus N, such as 0.5",
    "--cpu-quota": "write --cpus N, such as 0.5",
    "--cpu-shares": "write --cpu-weight N (100 is what 1024 is there)",
    "-c": "write --cpu-weight N (100 is what 1024 is there)",
    "--device": _NO_DEVICES,
    "--device-read-bps": "write --io-read RATE",
    "--device-write-bps": "write --io-write RATE",
    "--dns": _NETWORKS_ANSWER,
    "--entrypoint": "write the program after the options",
    "--env-file": "write -e NAME=VALUE, again and again",
    "--expose": "-p HOSTPORT:PORT leads into a container, and containers on one --net reach all ports of each other",
    "--gpus": _NO_DEVICES,
    "--group-add": "-u UID:GID chooses the group",
    "--health-cmd": _NO_CHECKS,
    "--ipc": _KEEPS_THE_HOST_S.format("ipc"),
    "--label": _NO_LABELS,
    "-l": _NO_LABELS,
    "--link": _NETWORKS_ANSWER,
    "--log-driver": "logs NAME shows what it wrote",
    "--memory-reservation": "--memory-high SIZE slows it down above that",
    "--memory-swap": "write --swap SIZE: what there is on top of --mem",
    "--mount": "write -v SOURCE:TARGET[:ro] for a directory or a volume, --tmpfs TARGET for memory",
    "--no-healthcheck": _NO_CHECKS,
    "--oom-kill-disable": "what needs more than --mem is killed; update --mem gives a running one more",
    "--oom-score-adj": "it is 500 for all containers",
    "--pid": _KEEPS_THE_HOST_S.format("pid"),
    "--platform": "a container has the host's",
    "--privileged": "--cap-add ALL and --security unconfined open what can be opened",
    "--publish-all": "write -p PORT: a free port of this host that leads to it",
    "-P": "write -p PORT: a free port of this host that leads to it",
    "--pull": "there are no images yet",
    "--restart": _RUNS_ONCE,
    "--security-opt": "write --security unconfined: without the seccomp filter",
    "--stop-signal": "kill -s SIGNAL NAME sends any",
    "--stop-timeout": "write it where it is stopped: stop -t SECONDS NAME",
    "--storage-opt": "write --disk SIZE: the writable layer",
    "--sysctl": "a container has its host's, but for those of its own namespaces",
    "--userns": _KEEPS_THE_HOST_S.format("user"),
    "--uts": _KEEPS_THE_HOST_S.format("uts"),
    "--volumes-from": "give both the same -v NAME:TARGET",
}
"""Of ``docker run``."""
VERBS = {
    "compose": "a cell for each container, with --name and --net NAME, -d for what stays",
    "container": "its verbs stand here alone: ps, rm, prune, ...",
    "cp": "-v DIR:/DIR shares files with a container, and -o NAME brings variables out",
    "create": "run -d and start make a container and begin it",
    "events": "ps -a and logs -f say what happens",
    "info": "doctor says what this host can do",
    "rename": "a container keeps its name; give it one with --name",
    "restart": "a container runs once; stop it, and start it anew",
    "system": "prune removes what is left over, stats shows what is used, doctor says what this host can do",
    "version": "in a terminal: nbcontainer --version",
}
FILTERS = {
    "health": _NO_CHECKS,
    "is-task": "it is for services of a swarm, and there are none",
    "isolation": "it is for Windows",
    "label": "containers have no labels; name=, id= and ancestor= choose among them",
}
"""Of ``docker ps``."""
