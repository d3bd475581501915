/*
 * What a command was given: one JSON object about the calling process, on the descriptor argv[1] (1 without it).
 *
 * The live tests compile it, statically where the machine can, and run it as the command. A static program has no
 * loader that opens files or maps libraries before main(), and needs no environment and no root directory of its own.
 * It asks the kernel by system calls where there is one to ask, and /proc for the rest. It changes nothing and decides
 * nothing: what is right is the test's business. A number is the result of the call, or -errno. A file that cannot be
 * read is null.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define LAST_SIGNAL 64
#define TRIED_FDS 4096		/* numbers that are tried one by one, in case /proc shows another process or none */
#define FILE_BYTES 65536

extern char **environ;

static char out[4 << 20];
static size_t used;

/* --- writing JSON ----------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2)))
static void put(const char *format, ...)
{
	va_list arguments;
	int len;

	va_start(arguments, format);
	len = vsnprintf(out + used, sizeof(out) - used, format, arguments);
	va_end(arguments);
	if (len < 0 || used + (size_t)len >= sizeof(out))
		_exit(3);
	used += (size_t)len;
}

/* Each byte is the character of its number: nothing is lost of what is no UTF-8. */
static void put_string(const char *text)
{
	put("\"");
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p < 0x20 || *p >= 0x7f || *p == '"' || *p == '\\')
			put("\\u%04x", *p);
		else
			put("%c", *p);
	}
	put("\"");
}

/* The comma belongs before every member but the first of an object or a list. */
static void comma(void)
{
	if (out[used - 1] != '{' && out[used - 1] != '[')
		put(",");
}

static void name(const char *key)
{
	comma();
	put_string(key);
	put(":");
}

static void number(const char *key, long long value)
{
	name(key);
	put("%lld", value);
}

static void words(const char *key, char **list)
{
	name(key);
	put("[");
	for (; *list; list++) {
		comma();
		put_string(*list);
	}
	put("]");
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

static long result(long value)
{
	return value < 0 ? -errno : value;
}

static char *read_file(const char *path)
{
	static char text[FILE_BYTES];
	size_t len = 0;
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	while ((got = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)got;
	close(fd);
	text[len] = 0;
	return got < 0 ? NULL : text;
}

static void file(const char *key, const char *path)
{
	char *text = read_file(path);

	name(key);
	if (!text) {
		put("null");
		return;
	}
	if (*text && text[strlen(text) - 1] == '\n')
		text[strlen(text) - 1] = 0;
	put_string(text);
}

static void link_text(const char *key, const char *path)
{
	char text[4096];
	ssize_t len = readlink(path, text, sizeof(text) - 1);

	name(key);
	if (len < 0) {
		put("null");
		return;
	}
	text[len] = 0;
	put_string(text);
}

/* --- the parts -------------------------------------------------------------------------------------------------- */

static void descriptor(int fd)
{
	char key[16], path[32];
	struct stat st;
	int flags = fcntl(fd, F_GETFD);

	if (flags < 0)
		return;
	snprintf(key, sizeof(key), "%d", fd);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	name(key);
	put("{");
	link_text("target", path);
	number("cloexec", flags & FD_CLOEXEC);
	number("flags", result(fcntl(fd, F_GETFL)));
	number("kind", fstat(fd, &st) < 0 ? -errno : (int)(st.st_mode & S_IFMT));
	put("}");
}

/* First of all, before anything here opens one. */
static void descriptors(void)
{
	struct dirent *entry;
	DIR *dir;

	name("fds");
	put("{");
	for (int fd = 0; fd < TRIED_FDS; fd++)
		descriptor(fd);
	dir = opendir("/proc/self/fd");
	while (dir && (entry = readdir(dir)))
		if (atoi(entry->d_name) >= TRIED_FDS)
			descriptor(atoi(entry->d_name));
	if (dir)
		closedir(dir);
	put("}");
}

/* The kernel's words: the C library hides signals 32 and 33, which it uses itself. */
static void signals(void)
{
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		uint64_t mask;
	} action;
	struct itimerval timer;
	uint64_t set = 0;
	stack_t stack;

	name("signal_mask");
	put("%ld", result(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &set, sizeof(set))) ? -1L : (long)set);
	set = 0;
	name("signals_pending");
	put("%ld", result(syscall(SYS_rt_sigpending, &set, sizeof(set))) ? -1L : (long)set);
	name("signal_actions");
	put("[");
	for (int signal = 1; signal <= LAST_SIGNAL; signal++) {
		memset(&action, 0, sizeof(action));
		comma();
		if (syscall(SYS_rt_sigaction, signal, NULL, &action, sizeof(action.mask)) < 0)
			put("%d", -errno);
		else if (action.flags || action.mask)
			put("\"flags %lx mask %lx\"", action.flags, (unsigned long)action.mask);
		else
			put_string(action.handler == SIG_DFL ? "default" :
				   action.handler == SIG_IGN ? "ignored" : "caught");
	}
	put("]");
	name("signal_stack");
	put("%d", sigaltstack(NULL, &stack) < 0 ? -errno : !(stack.ss_flags & SS_DISABLE));
	name("itimers");
	put("[");
	for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
		comma();
		if (getitimer(which, &timer) < 0)
			put("%d", -errno);
		else
			put("%d", timerisset(&timer.it_value) || timerisset(&timer.it_interval));
	}
	put("]");
	file("posix_timers", "/proc/self/timers");
}

static void capability_sets(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	uint64_t bounding = 0, ambient = 0;

	memset(data, 0, sizeof(data));
	number("capget", result(syscall(SYS_capget, &header, data)));
	for (int cap = 0; cap < 64; cap++) {
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
			bounding |= 1ULL << cap;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1)
			ambient |= 1ULL << cap;
	}
	number("cap_inheritable", (long long)((uint64_t)data[1].inheritable << 32 | data[0].inheritable));
	number("cap_permitted", (long long)((uint64_t)data[1].permitted << 32 | data[0].permitted));
	number("cap_effective", (long long)((uint64_t)data[1].effective << 32 | data[0].effective));
	number("cap_bounding", (long long)bounding);
	number("cap_ambient", (long long)ambient);
}

/* Numbers from <linux/prctl.h>: the headers of a build machine may be older than its kernel. */
static void process_controls(void)
{
	int value;

	value = -1;
	prctl(PR_GET_PDEATHSIG, &value, 0, 0, 0);
	number("pdeathsig", value);
	value = -1;
	prctl(PR_GET_CHILD_SUBREAPER, &value, 0, 0, 0);
	number("child_subreaper", value);
	number("securebits", result(prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)));
	number("no_new_privs", result(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)));
	number("keepcaps", result(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0)));
	number("dumpable", result(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)));
	number("seccomp", result(prctl(PR_GET_SECCOMP, 0, 0, 0, 0)));
	number("timer_slack", result(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)));
	number("thp_disable", result(prctl(42, 0, 0, 0, 0)));
	number("machine_check", result(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0)));
	number("mdwe", result(prctl(66, 0, 0, 0, 0)));
	number("memory_merge", result(prctl(68, 0, 0, 0, 0)));
	value = -1;
	prctl(PR_GET_TSC, &value, 0, 0, 0);
	number("tsc", value);
	name("speculation");		/* store bypass, indirect branch, L1D flush */
	put("[");
	for (int kind = 0; kind < 3; kind++) {
		comma();
		put("%ld", result(prctl(52, kind, 0, 0, 0)));
	}
	put("]");
	number("personality", result(syscall(SYS_personality, 0xffffffffUL)));
}

static void identity(void)
{
	gid_t groups[1024];
	uid_t r, e, s;
	int n;

	getresuid(&r, &e, &s);
	name("uids");		/* setfsuid(-1) fails, and so tells */
	put("[%u,%u,%u,%u]", r, e, s, (unsigned)syscall(SYS_setfsuid, -1));
	getresgid(&r, &e, &s);
	name("gids");
	put("[%u,%u,%u,%u]", r, e, s, (unsigned)syscall(SYS_setfsgid, -1));
	n = getgroups(1024, groups);
	name("groups");
	put("[");
	for (int i = 0; i < n; i++) {
		comma();
		put("%u", groups[i]);
	}
	put("]");
	number("pid", getpid());
	number("ppid", getppid());
	number("sid", getsid(0));
	number("pgid", getpgid(0));
	file("loginuid", "/proc/self/loginuid");
}

static void keyrings(void)
{
	char text[256] = "";
	long id = result(syscall(SYS_keyctl, 0, -3, 0));	/* KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING */
	const char *last;

	number("session_keyring", id);
	syscall(SYS_keyctl, 6, -3, text, sizeof(text) - 1);	/* KEYCTL_DESCRIBE: type;uid;gid;perm;description */
	last = strrchr(text, ';');
	name("session_keyring_name");
	put_string(last ? last + 1 : "");
	/* KEYCTL_SET_REQKEY_KEYRING without a change tells what is set. */
	number("request_key_destination", result(syscall(SYS_keyctl, 14, -1)));
}

static void scheduling(void)
{
	unsigned char cpus[1024] = { 0 };
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr;
	long len = result(syscall(SYS_sched_getaffinity, 0, sizeof(cpus), cpus));
	int mode = -1;

	memset(&attr, 0, sizeof(attr));
	number("sched_getattr", result(syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0)));
	number("nice", attr.nice);
	number("policy", attr.policy);
	number("policy_flags", (long long)attr.flags);
	number("priority", attr.priority);
	name("affinity");
	put("[");
	for (long cpu = 0; cpu < len * 8; cpu++) {
		if (!(cpus[cpu / 8] >> cpu % 8 & 1))
			continue;
		comma();
		put("%ld", cpu);
	}
	put("]");
	number("io_priority", result(syscall(SYS_ioprio_get, 1, 0)));
	name("memory_policy");
	put("%ld", result(syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0)) < 0 ? -1L : (long)mode);
}

static void limits(void)
{
	name("rlimits");
	put("[");
	for (int resource = 0; resource < 16; resource++) {
		uint64_t pair[2] = { 0, 0 };

		syscall(SYS_prlimit64, 0, resource, NULL, pair);
		comma();
		put("[%lld,%lld]", (long long)pair[0], (long long)pair[1]);
	}
	put("]");
}

static void namespaces(void)
{
	static const char *const kinds[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time",
		"time_for_children", "user", "uts" };
	char path[64];

	name("namespaces");
	put("{");
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", kinds[i]);
		link_text(kinds[i], path);
	}
	put("}");
	file("uid_map", "/proc/self/uid_map");
	file("gid_map", "/proc/self/gid_map");
	file("setgroups", "/proc/self/setgroups");
}

/* The lines of a status or stat file that no system call tells, or that contradict it if the kernel or we are wrong. */
static void status(void)
{
	static const char *const wanted[] = { "Umask", "TracerPid", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn",
		"SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters",
		"VmLck" };
	char *text = read_file("/proc/self/status"), *line, *rest, *value;
	int session_tty, exit_signal;

	name("status");
	put("{");
	for (line = text ? strtok_r(text, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
		value = strchr(line, ':');
		if (!value)
			continue;
		*value++ = 0;
		for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++) {
			if (strcmp(line, wanted[i]))
				continue;
			name(line);
			put_string(value + strspn(value, " \t"));
		}
	}
	put("}");

	text = read_file("/proc/self/stat");
	value = text ? strrchr(text, ')') : NULL;
	if (value && sscanf(value, ") %*c %*d %*d %*d %d", &session_tty) == 1)
		number("tty", session_tty);
	for (int i = 0; value && i < 36; i++)		/* from field 2 to field 38 */
		value = strchr(value + 1, ' ');
	if (value && sscanf(value, " %d", &exit_signal) == 1)
		number("exit_signal", exit_signal);
}

/* Names of files and of memory that is not this program's own. */
static void mappings(void)
{
	static const char *const own[] = { "[heap]", "[stack]", "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]",
		"[uprobes]" };
	char exe[4096], *text, *line, *rest;
	ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	exe[len < 0 ? 0 : len] = 0;
	text = read_file("/proc/self/maps");
	name("foreign_mappings");
	put("[");
	for (line = text ? strtok_r(text, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
		char *what = line;
		int ours = 0;

		for (int field = 0; field < 5 && what; field++) {
			what = strchr(what, ' ');
			what = what ? what + strspn(what, " ") : NULL;
		}
		ours = !what || !*what || !strcmp(what, exe);
		for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
			ours |= what && !strcmp(what, own[i]);
#ifdef DYNAMIC	/* with a loader: its libraries are the program's own */
		ours |= what && strstr(what, ".so") != NULL;
#endif
		if (ours)
			continue;
		comma();
		put_string(what);
	}
	put("]");
}

/* Type, source and options of what is mounted on /proc; not the ids, which differ in a new namespace. */
static void mount_of_proc(void)
{
	char *text = read_file("/proc/self/mountinfo"), *line, *rest, *what;
	char last[1024] = "";

	for (line = text ? strtok_r(text, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
		what = line;
		for (int field = 0; field < 3 && what; field++) {
			what = strchr(what, ' ');
			what = what ? what + 1 : NULL;
		}
		if (what && !strncmp(what, "/ /proc ", 8))
			snprintf(last, sizeof(last), "%s", what);
	}
	if (strstr(last, " - "))
		memmove(last, strstr(last, " - ") + 3, strlen(strstr(last, " - ") + 3) + 1);
	name("proc_mount");
	put_string(last);
}

int main(int argc, char **argv)
{
	int fd = argc > 1 ? atoi(argv[1]) : 1;
	char cwd[4096];

	put("{");
	descriptors();
	signals();
	capability_sets();
	process_controls();
	identity();
	keyrings();
	scheduling();
	limits();
	namespaces();
	status();
	mappings();
	mount_of_proc();
	words("argv", argv);
	words("environ", environ);
	name("cwd");
	put_string(syscall(SYS_getcwd, cwd, sizeof(cwd)) < 0 ? "?" : cwd);
	link_text("root", "/proc/self/root");
	link_text("exe", "/proc/self/exe");
	file("comm", "/proc/self/comm");
	file("cgroup", "/proc/self/cgroup");
	file("oom_score_adj", "/proc/self/oom_score_adj");
	file("coredump_filter", "/proc/self/coredump_filter");
	file("children", "/proc/thread-self/children");
	put("}\n");
	for (size_t done = 0; done < used;) {
		ssize_t written = write(fd, out + done, used - done);

		if (written < 0)
			return 2;
		done += (size_t)written;
	}
	return 0;
}
