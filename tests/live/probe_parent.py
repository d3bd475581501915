"""A very dirty parent, for test_live_probe.py. Much of what it does to itself cannot be undone: it has its own process.

Reads a plan as JSON from stdin, and writes a report to what was its stdout: for each thread the probe's words after a
plain fork and exec, which show what is there to leak, and after each launch through nsnet, with its own state before
and after. It judges nothing. Needs nothing but nsnet and the standard library of any CPython that nsnet supports.
"""

import ctypes
import faulthandler
import fcntl
import json
import mmap
import os
import pty
import resource
import signal
import socket
import stat
import sys
import termios
import threading
import traceback

import nsnet
import nsnet.process                                        # who launches keeps the memory that children execute
from nsnet import kernel
from nsnet.clone import image

image.fileno()                                              # made at the first launch, and kept
LIBC = ctypes.CDLL(None, use_errno=True)
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
STATUS = {"Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Threads", "SigBlk", "SigIgn", "SigCgt", "SigPnd",
          "ShdPnd", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
# <linux/prctl.h>
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE = 1, 2, 3, 4
PR_GET_KEEPCAPS, PR_SET_KEEPCAPS, PR_GET_SECUREBITS, PR_SET_SECUREBITS = 7, 8, 27, 28
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, PR_MCE_KILL, PR_CAP_AMBIENT = 29, 30, 33, 47
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER, PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 36, 37, 41, 42
X86_64 = os.uname().machine == "x86_64"
# Of the system calls that the C library has no function for: x86_64, else the generic table (aarch64, riscv64).
SYS_RT_SIGACTION, SYS_IOPRIO_SET, SYS_IOPRIO_GET, SYS_KEYCTL = (13, 251, 252, 250) if X86_64 else (134, 30, 31, 219)
PATIENCE = 20                               # seconds that a launch may take on a busy machine
SESSION_KEYRING = -3                        # <linux/keyctl.h>
FIRST_LEAK, LEAK_STEP = 101, 14             # where inheritable descriptors are, as far as there are some
KEPT = []                                   # what must not be collected: the owners of memory and descriptors


def check(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number, *arguments):
    return check(LIBC.syscall(ctypes.c_long(number), *(
        ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)))


def prctl(option, *arguments):
    words = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    return check(LIBC.prctl(option, *words, *[ctypes.c_ulong(0)] * (4 - len(words))))


def prctl_pointer(option):
    value = ctypes.c_int(-1)
    prctl(option, ctypes.byref(value))
    return value.value


# --- dirt ---

def dirty_process(dirt):
    """What is the whole process's. Before another thread starts: it gets a copy of the credentials."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (4097 if hard == resource.RLIM_INFINITY else min(hard, 4097), hard))
    leak_descriptors()
    os.environ.update({"LD_PRELOAD": "", "LD_LIBRARY_PATH": "/nonexistent", "LD_BIND_NOW": "1", "EMPTY": "",
                       "NSNET_PROBE": "of the parent"})
    os.environb[b"BYTES"] = b"\xff\xfe"
    os.chdir("/usr")
    os.umask(dirt["umask"])
    os.nice(3)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        file.write(str(max(77, int(file.read()))))                  # to lower it may take a privilege
    with open("/proc/self/coredump_filter", "w", encoding="ascii") as file:
        file.write("0x7f")
    syscall(SYS_IOPRIO_SET, 1, 0, 2 << 13 | 6)
    LIBC.personality(ctypes.c_ulong(0x0040000))                     # ADDR_NO_RANDOMIZE
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_THP_DISABLE, 1)
    prctl(PR_MCE_KILL, 1, 1)                                        # PR_MCE_KILL_SET, PR_MCE_KILL_EARLY
    try:
        syscall(SYS_KEYCTL, 1, f"nsnet-probe-{os.getpid()}".encode())   # KEYCTL_JOIN_SESSION_KEYRING
        syscall(SYS_KEYCTL, 14, 3)                                  # KEYCTL_SET_REQKEY_KEYRING, ..._SESSION_KEYRING
    except OSError:
        pass                                                        # no keyrings here: none to leak
    signal.signal(signal.SIGALRM, lambda *_: None)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 5000, 5000)
    KEPT.append(mmap.mmap(-1, 1 << 16))
    KEPT[-1][:6] = b"secret"
    if os.geteuid() == 0:
        os.setgroups([0, 4, 24])
        dirty_capabilities()
        prctl(PR_SET_SECUREBITS, dirt["securebits"])
    prctl(PR_SET_KEEPCAPS, 1)
    dirty_signals(dirt)
    if dirt["closed"]:
        os.close(0)
        assert os.memfd_create("private") == 0                      # as it comes to be in a daemon without a stdin
    # Last: an ordinary user's own /proc/self is root's from here on.
    prctl(PR_SET_DUMPABLE, dirt["dumpable"])


def dirty_thread():
    """What each thread has of its own, and what starting a thread undoes."""
    action = (ctypes.c_ulong * 4)(1, 0, 0, 0)                       # SIG_IGN, for the two that the C library hides
    for number in (32, 33):
        syscall(SYS_RT_SIGACTION, number, ctypes.byref(action), None, 8)
    prctl(PR_SET_PDEATHSIG, int(signal.SIGUSR2))
    prctl(PR_SET_TIMERSLACK, 123456)
    memory = ctypes.create_string_buffer(1 << 16)
    KEPT.append(memory)
    stack = (ctypes.c_void_p * 3)(ctypes.addressof(memory), 0, len(memory))     # struct stack_t: pointer, flags, size
    check(LIBC.sigaltstack(ctypes.byref(stack), None))


def dirty_signals(dirt):
    for number in (signal.SIGUSR2, signal.SIGRTMAX - 2, signal.SIGWINCH):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGRTMIN + 5, signal.SIGRTMAX):
        signal.signal(number, signal.SIG_IGN)
    if dirt["ignore_sigchld"]:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    blocked = {signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN + 3, signal.SIGRTMAX}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    os.kill(os.getpid(), signal.SIGUSR1)                            # pending for the process, and for the thread
    signal.pthread_kill(threading.get_ident(), signal.SIGRTMIN + 3)


def dirty_capabilities():
    """Inheritable and ambient ones: a plain exec hands them on."""
    has = kernel.effective_capabilities()
    wanted = [number for number in (0, 5, 10, 23) if has >> number & 1]     # chown kill net_bind_service sys_nice
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    check(LIBC.capget(header, data))
    data[2] = sum(1 << number for number in wanted)
    check(LIBC.capset(header, data))
    for number in wanted:
        prctl(PR_CAP_AMBIENT, 2, number)                            # PR_CAP_AMBIENT_RAISE


def leak_descriptors():
    """One of each kind, inheritable: at odd numbers, at the last one that the limit allows, and beyond the limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    top = 5000 if hard == resource.RLIM_INFINITY else min(hard, 5000)
    soft = top * 3 // 4
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
    os.dup2(os.memfd_create("probe-output"), 1, inheritable=True)
    left, right = socket.socketpair()
    empty = (ctypes.c_ulong * 16)()
    master, slave = pty.openpty()
    sources = [*os.pipe(), left.detach(), right.detach(), master, slave,
               os.open("/proc", os.O_RDONLY | os.O_DIRECTORY), os.open("/", os.O_PATH),
               os.open("/proc/self/ns/net", os.O_RDONLY), os.memfd_create("secret"), os.pidfd_open(os.getpid()),
               check(LIBC.epoll_create1(0)), check(LIBC.eventfd(0, 0)), check(LIBC.timerfd_create(1, 0)),
               check(LIBC.signalfd(-1, ctypes.byref(empty), 0)), check(LIBC.inotify_init1(0)),
               socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
               socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).detach()]
    for source, place in zip(sources, range(FIRST_LEAK, soft, LEAK_STEP)):
        os.dup2(source, place, inheritable=True)
        os.set_inheritable(source, True)
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)                        # a controlling terminal of its own
    for place in (soft - 1, soft, top - 1):
        os.dup2(sources[0], place, inheritable=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- its own state ---

def own_state():
    """Everything about the calling thread and its process that a launch might change."""
    with open("/proc/thread-self/status", encoding="utf-8") as file:
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in file) if name in STATUS}
    state = {
        "status": status, "cwd": os.getcwd(), "root": os.readlink("/proc/self/root"), "pid": os.getpid(),
        "ppid": os.getppid(), "sid": os.getsid(0), "pgid": os.getpgid(0), "uids": os.getresuid(),
        "gids": os.getresgid(), "groups": os.getgroups(), "umask": read_umask(), "nice": os.nice(0),
        "affinity": sorted(os.sched_getaffinity(0)), "policy": os.sched_getscheduler(0),
        "rlimits": [resource.prlimit(0, number) for number in range(16)],
        "namespaces": {kind: namespace(kind) for kind in KINDS},
        "fds": {number: describe(int(number)) for number in numbers()},
        "environ": [(key + b"=" + value).decode("latin-1") for key, value in os.environb.items()],
        "dumpable": prctl(PR_GET_DUMPABLE), "keepcaps": prctl(PR_GET_KEEPCAPS), "securebits": prctl(PR_GET_SECUREBITS),
        "timer_slack": prctl(PR_GET_TIMERSLACK), "thp_disable": prctl(PR_GET_THP_DISABLE),
        "pdeathsig": prctl_pointer(PR_GET_PDEATHSIG), "child_subreaper": prctl_pointer(PR_GET_CHILD_SUBREAPER),
        "personality": LIBC.personality(ctypes.c_ulong(0xFFFFFFFF)), "io_priority": syscall(SYS_IOPRIO_GET, 1, 0),
        "itimers": [bool(signal.getitimer(timer)[0]) for timer in range(3)], "signal_stack": signal_stack(),
        "handlers": [raw_handler(number) for number in range(1, 65)], "session_keyring": session_keyring(),
        "children": sorted(children()),
    }
    for name in ("oom_score_adj", "coredump_filter", "cgroup", "uid_map", "gid_map"):
        with open(f"/proc/self/{name}", encoding="ascii") as file:
            state[name] = file.read().rstrip("\n")
    return state


def read_umask():
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def namespace(kind):
    """None where the kernel is too old to have it."""
    try:
        return os.readlink(f"/proc/thread-self/ns/{kind}")
    except FileNotFoundError:
        return None


def numbers():
    """The open descriptors, without that of the listing."""
    return [number for number in os.listdir("/proc/self/fd") if is_open(number)]


def is_open(number):
    try:
        os.fstat(int(number))
    except OSError:
        return False
    return True


def describe(fd):
    return {"target": os.readlink(f"/proc/self/fd/{fd}"), "flags": fcntl.fcntl(fd, fcntl.F_GETFL),
            "cloexec": fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC, "kind": stat.S_IFMT(os.fstat(fd).st_mode)}


def signal_stack():
    stack = (ctypes.c_void_p * 3)()
    check(LIBC.sigaltstack(None, ctypes.byref(stack)))
    return [stack[0], stack[2]]


def raw_handler(number):
    action = (ctypes.c_ulong * 4)()
    syscall(SYS_RT_SIGACTION, number, None, ctypes.byref(action), 8)
    return list(action)


def session_keyring():
    try:
        return syscall(SYS_KEYCTL, 0, SESSION_KEYRING, 0)           # KEYCTL_GET_KEYRING_ID
    except OSError as error:
        return -error.errno


def children():
    pids = set()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
            pids.update(map(int, file.read().split()))
    return pids


# --- launches ---

def said(process=None):
    """What the probe has written: to the pipe that is its stdout, else to the file that is ours."""
    if process is not None and process.stdout is not None:
        return json.loads(process.stdout.read())
    os.lseek(1, 0, os.SEEK_SET)
    with open(os.dup(1), "rb") as file:
        text = file.read()
    os.ftruncate(1, 0)
    os.lseek(1, 0, os.SEEK_SET)
    return json.loads(text)


def plain(probe):
    """A fork and an exec that clean nothing up: the control, and the measure of what is inherited on purpose."""
    pid = os.fork()
    if pid == 0:
        try:
            os.execve(probe, ["probe"], os.environb)
        finally:
            os._exit(127)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass                                                        # SIGCHLD is ignored; it has ended all the same
    return {"probe": said(), "pid": pid}


def launch(probe, options):
    """One launch through nsnet, with words in the plan's options replaced by what they stand for."""
    options = dict(options)
    opened, expected = [], {}
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    opened.append(null)
    for target, name in enumerate(("stdin", "stdout", "stderr")):
        word = options.get(name)
        if word is None:
            expected[target] = describe(target if is_open(target) and os.get_inheritable(target) else null)
        elif word == "DEVNULL":
            expected[target] = describe(null)
        elif word == "STDOUT":
            expected[target] = "as 1"
        elif word == "PIPE":
            expected[target] = "pipe"
        else:
            expected[target] = describe(word)
        if isinstance(word, str):
            options[name] = getattr(nsnet, word)
    for fd in options.get("pass_fds", ()):
        expected[fd] = describe(fd)
    if "rlimits" in options:
        options["rlimits"] = {int(name): tuple(pair) for name, pair in options["rlimits"].items()}
    cgroup = options.pop("cgroup", None) and make_cgroup(opened, options)
    holders = join(options)
    result = {"before": own_state(), "cgroup": cgroup}
    try:
        if "join" in options:
            result["joined"] = {kind: os.readlink(f"/proc/{holders[0].pid}/ns/{kind}") for kind in options["join"]}
        argv = [probe, *options.pop("arguments", [])]
        with nsnet.spawn(argv, **options) as process:
            result["pid"] = process.pid
            if options.get("hold"):
                process.go()
            for target, name in enumerate(("stdin", "stdout", "stderr")):
                if expected[target] == "pipe":
                    ours = getattr(process, name).fileno()
                    expected[target] = {**describe(ours), "cloexec": 0, "flags": os.O_WRONLY if target else os.O_RDONLY}
            if expected[2] == "as 1":
                expected[2] = expected[1]
            if process.stdout is None:
                process.wait(PATIENCE)
            result["probe"] = said(process)
            result["returncode"] = process.wait(PATIENCE)
        del process
        result["after"] = own_state()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait(PATIENCE)
            holder.close()
        for fd in opened:
            os.close(fd)
        if cgroup is not None:
            os.rmdir(cgroup[0])
    result["expected_fds"] = {number: {**row, "cloexec": 0} for number, row in expected.items()}
    return result


def join(options):
    """Namespaces to enter: a parked process's. Only who is somebody in there may make a user namespace below."""
    if "join" not in options:
        return []
    maps = {"uid_map": {0: os.geteuid()}, "gid_map": {0: os.getegid()}} if options.get("new") else {}
    holder = nsnet.spawn(["/bin/true"], new=options["join"], hold=True, **maps)
    options["join"] = {kind: f"/proc/{holder.pid}/ns/{kind}" for kind in options["join"]}
    return [holder]


def make_cgroup(opened, options):
    """(directory, its path in /proc/PID/cgroup) of a new cgroup, where the machine lets us have one."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        mounts = [line.split()[1] for line in file if line.split()[2] == "cgroup2"]
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        own = [line[3:].strip() for line in file if line.startswith("0::")]
    if not mounts or not own:
        return None
    name = os.path.join(own[0], f"nsnet-probe-{os.getpid()}-{threading.get_ident()}")
    mask = os.umask(0o022)
    try:
        os.mkdir(mounts[0] + name)
    except OSError:
        return None
    finally:
        os.umask(mask)
    opened.append(os.open(mounts[0] + name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    options["cgroup"] = opened[-1]
    return [mounts[0] + name, name]


def many(argv, count, options):
    """Launch and wait, again and again."""
    options = {name: getattr(nsnet, word) if name.startswith("std") else word for name, word in options.items()}
    before = own_state()
    for _ in range(count):
        with nsnet.spawn(argv, **options) as process:
            process.wait(PATIENCE)
    del process
    return {"before": before, "after": own_state()}


def work(plan):
    """All of the plan, in the calling thread."""
    dirty_thread()
    if "many" in plan:
        return {"many": many(**plan["many"])}
    report = {"state": own_state(), "plain": plain(plan["probe"]), "cases": {}}
    for name, options in plan["cases"].items():
        try:
            report["cases"][name] = launch(plan["probe"], options)
        except Exception:
            report["cases"][name] = {"failed": traceback.format_exc()}
    return report


def main():
    plan = json.load(sys.stdin)
    output = os.dup(1)
    report = {}
    dirty_process(plan["dirt"])
    report["main"] = work(plan)
    failure = []

    def other():
        try:
            report["other"] = work(plan)
        except BaseException:
            failure.append(traceback.format_exc())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    report["failure"] = failure
    with open(output, "w", encoding="ascii") as file:
        json.dump(report, file)


if __name__ == "__main__":
    faulthandler.enable()
    main()
