"""What the figures depend on: the machine, the kernel's configuration, this process's limits, and versions.

All of it is printed with every result, for a figure without it says nothing. What cannot be read is left out.
"""

import gzip
import os
import platform
import re
import resource
import sysconfig
from typing import Dict, Optional

from bench import peers

KERNEL_OPTIONS = ("CONFIG_HZ", "CONFIG_PREEMPT_DYNAMIC", "CONFIG_PREEMPT_RCU", "CONFIG_NO_HZ_FULL",
                  "CONFIG_DEBUG_NET_SMALL_RTNL", "CONFIG_PROVE_LOCKING", "CONFIG_KASAN")
# All of them change what a namespace or a link costs, or how many there may be.
SYSCTLS = ("user/max_net_namespaces", "user/max_user_namespaces", "net/core/wmem_default", "net/core/rmem_default",
           "net/core/fb_tunnels_only_for_init_net", "net/core/devconf_inherit_init_net",
           "net/ipv6/conf/default/disable_ipv6", "net/ipv6/conf/default/accept_dad", "kernel/sched_autogroup_enabled",
           "kernel/pid_max")
SYSFS = ("kernel/rcu_expedited", "kernel/rcu_normal", "kernel/mm/transparent_hugepage/enabled",
         "devices/system/cpu/smt/active", "devices/system/cpu/cpu0/cpufreq/scaling_governor",
         "devices/system/clocksource/clocksource0/current_clocksource")
LIMITS = {"NOFILE": resource.RLIMIT_NOFILE, "NPROC": resource.RLIMIT_NPROC}


def describe() -> Dict[str, str]:
    """By topic, each one line."""
    system = os.uname()
    usable, online = len(os.sched_getaffinity(0)), os.cpu_count()
    found = {
        "kernel": f"{system.sysname} {system.release} {system.machine}",
        "kernel's configuration": _options(),
        "cpu": _cpu_model(),
        "cores": str(usable) if usable == online else f"{usable} of {online}",
        "memory": _memory(),
        "load": ", ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5, 15 minutes)",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {_build()}",
        "uid": f"{os.geteuid()}, capabilities {_status('CapEff')}",
        "limits": ", ".join(f"{name} {_limit(number)}" for name, number in LIMITS.items()),
        "sysctls": ", ".join(filter(None, (_setting("/proc/sys/", name) for name in SYSCTLS))),
        "sysfs": ", ".join(filter(None, (_setting("/sys/", name) for name in SYSFS))),
        "programs": ", ".join(f"{name} {version}" for name, version in peers.versions().items()),
    }
    return {topic: said for topic, said in found.items() if said}


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _setting(directory: str, name: str) -> Optional[str]:
    text = _read(directory + name)
    if text is None:
        return None
    chosen = re.search(r"\[(\S+)\]", text)              # one of several words
    return f"{name.replace('/', '.')}={chosen[1] if chosen else ' '.join(text.split())}"


def _options() -> str:
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8") as file:
            text = file.read()
    except OSError:
        text = _read(f"/boot/config-{os.uname().release}") or ""
    values = {name: re.search(f"^{name}=(.+)$", text, re.M) for name in KERNEL_OPTIONS}
    words = [f"{name[len('CONFIG_'):]}={value[1] if value else 'n'}" for name, value in values.items()]
    return ", ".join(words) if text else ""


def _cpu_model() -> str:
    """/proc/cpuinfo has no model name on every architecture."""
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.lower().startswith(("model name", "uarch", "cpu model")):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory() -> str:
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in (_read("/proc/meminfo") or "").splitlines()}
    return f"{sizes['MemTotal'] / 2**20:.1f} GiB, {sizes['MemAvailable'] / 2**20:.1f} GiB of it available"


def _status(name: str) -> str:
    return next((line.split()[1] for line in (_read("/proc/self/status") or "").splitlines()
                 if line.startswith(name + ":")), "")


def _limit(number: int) -> str:
    soft = resource.getrlimit(number)[0]
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def _build() -> str:
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return "optimised build" if "--enable-optimizations" in options else "build without --enable-optimizations"
