/*
 * A process in new namespaces: clone3, a child that parks, and the way from "go" to execve.
 *
 * The child makes what the parent asked for in a fixed order and fails closed: the first step that fails is reported as
 * {step, errno} and ends it. Everything it needs was laid out by Python before the clone; it makes raw system calls only
 * (child.c says why). The parent learns of success by end of file: the channel closes at execve.
 *
 * Knows the order of steps and the kernel's rules for it. Refuses to know defaults, names, search paths and policy: these
 * are process.py's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "child.h"
#include "rawsys.h"

#define LAST_SIGNAL 64

/* The kernel's struct sigaction; the C library's differs. */
struct kernel_sigaction {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

static long raw_prctl(long option, long a, long b)
{
	return raw_syscall5(SYS_prctl, option, a, b, 0, 0);
}

/* --- the child -------------------------------------------------------------------------------------------------- */

__attribute__((noreturn))
static void give_up(int channel, int step, long error)
{
	child_report(channel, step, (int)-error, -1);
	child_exit(127);
}

static long join_namespaces(const struct nsnet_spawn *job)
{
	long err;

	for (size_t i = 0; i < job->n_joins; i++) {
		if (job->joins[i].type == CLONE_NEWUSER) {
			/* Root of the namespace that we enter may trace us, and we carry a copy of our parent's memory. */
			err = raw_prctl(PR_SET_DUMPABLE, 0, 0);
			if (err < 0)
				return err;
			/* Inside it may be denied for ever. An unprivileged caller keeps its own groups. */
			err = raw_syscall2(SYS_setgroups, 0, 0);
			if (err < 0 && err != -EPERM)
				return err;
		}
		err = raw_syscall2(SYS_setns, job->joins[i].fd, job->joins[i].type);
		if (err < 0)
			return err;
	}
	return 0;
}

/* Put every wanted descriptor where it belongs and close all others. First all sources are copied above the highest
 * target, so that no move overwrites a source that is still to be moved. Returns the channel's new number. */
static long arrange_descriptors(const struct nsnet_spawn *job, int channel)
{
	int above = 0, next = 0;
	long fd;

	for (size_t i = 0; i < job->n_moves; i++)
		if (job->moves[i].target >= above)
			above = job->moves[i].target + 1;

	fd = raw_syscall3(SYS_fcntl, channel, F_DUPFD_CLOEXEC, above);
	if (fd < 0)
		return fd;
	channel = (int)fd;
	for (size_t i = 0; i < job->n_moves; i++) {
		struct nsnet_fd_move *move = (struct nsnet_fd_move *)&job->moves[i];

		fd = raw_syscall3(SYS_fcntl, move->source, F_DUPFD_CLOEXEC, above);
		if (fd < 0)
			return fd;
		move->source = (int)fd;		/* our copy of the table: the parent does not see this */
	}
	for (size_t i = 0; i < job->n_moves; i++) {
		fd = raw_syscall3(SYS_dup3, job->moves[i].source, job->moves[i].target, 0);
		if (fd < 0)
			return fd;
	}
	if (channel != above) {
		fd = raw_syscall3(SYS_dup3, channel, above, O_CLOEXEC);
		if (fd < 0)
			return fd;
		channel = above;
	}
	fd = raw_syscall3(SYS_close_range, above + 1, ~0U, 0);
	if (fd < 0)
		return fd;
	for (size_t i = 0; i < job->n_moves; i++) {	/* sorted by target */
		if (job->moves[i].target > next) {
			fd = raw_syscall3(SYS_close_range, next, job->moves[i].target - 1, 0);
			if (fd < 0)
				return fd;
		}
		next = job->moves[i].target + 1;
	}
	return channel;
}

/* Parked: until the parent says go. End of file means that it is gone, and so are we. */
static void wait_for_go(int channel)
{
	char go;
	long got;

	do {
		got = raw_syscall6(SYS_recvfrom, channel, RAW_ARG(&go), 1, 0, 0, 0);
	} while (got == -EINTR);
	if (got <= 0)
		child_exit(127);
}

static long become(const struct nsnet_spawn *job, int *step)
{
	long err;

	/* Keep the permitted set over setresuid to a uid that is not root; set_capabilities narrows it. */
	*step = NSNET_STEP_CAPABILITIES;
	err = raw_prctl(PR_SET_KEEPCAPS, 1, 0);
	if (err < 0)
		return err;
	*step = NSNET_STEP_SETGROUPS;
	err = job->drop_groups ? raw_syscall2(SYS_setgroups, 0, 0) : 0;
	if (err < 0)
		return err;
	if (!job->set_ids)
		return 0;
	*step = NSNET_STEP_SETGID;
	err = raw_syscall3(SYS_setresgid, job->gid, job->gid, job->gid);
	if (err < 0)
		return err;
	*step = NSNET_STEP_SETUID;
	return raw_syscall3(SYS_setresuid, job->uid, job->uid, job->uid);
}

/* Exactly `wanted`, in all five sets. The bounding set has no "set" call: drop until the kernel knows no more. */
static long set_capabilities(uint64_t wanted, int drop_bounding)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	long err;

	for (int cap = 0; drop_bounding && cap < 64; cap++) {
		if (wanted >> cap & 1)
			continue;
		err = raw_prctl(PR_CAPBSET_DROP, cap, 0);
		if (err == -EINVAL)
			break;
		if (err < 0)
			return err;
	}
	err = raw_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0);
	if (err < 0)
		return err;
	for (int half = 0; half < 2; half++) {
		data[half].effective = (uint32_t)(wanted >> (32 * half));
		data[half].permitted = data[half].effective;
		data[half].inheritable = data[half].effective;
	}
	err = raw_syscall2(SYS_capset, &header, data);
	if (err < 0)
		return err;
	for (int cap = 0; cap < 64; cap++) {
		if (!(wanted >> cap & 1))
			continue;
		err = raw_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap);
		if (err < 0)
			return err;
	}
	return raw_prctl(PR_SET_KEEPCAPS, 0, 0);
}

static long set_rlimits(const struct nsnet_spawn *job)
{
	for (size_t i = 0; i < job->n_rlimits; i++) {
		uint64_t limits[2] = { job->rlimits[i].soft, job->rlimits[i].hard };
		long err = raw_syscall4(SYS_prlimit64, 0, job->rlimits[i].resource, limits, 0);

		if (err < 0)
			return err;
	}
	return 0;
}

/* The parent may have ended before the death signal was armed: then nobody would send it. */
static long arm_death_signal(int signal, int channel)
{
	char ignored;
	long err = raw_prctl(PR_SET_PDEATHSIG, signal, 0);

	if (err < 0)
		return err;
	if (raw_syscall6(SYS_recvfrom, channel, RAW_ARG(&ignored), 1, MSG_DONTWAIT | MSG_PEEK, 0, 0) == 0)
		child_exit(127);
	return 0;
}

static long default_signals(void)
{
	struct kernel_sigaction action;
	uint64_t none = 0;

	for (volatile char *p = (char *)&action; p < (char *)(&action + 1); p++)
		*p = 0;
	for (int signal = 1; signal <= LAST_SIGNAL; signal++) {
		long err;

		if (signal == SIGKILL || signal == SIGSTOP)
			continue;
		err = raw_syscall4(SYS_rt_sigaction, signal, &action, 0, sizeof(action.mask));
		if (err < 0)
			return err;
	}
	return raw_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof(none));
}

/* As execvp: a candidate that exists but may not be run is remembered; one that does not exist is passed over. */
static long try_execve(const struct nsnet_spawn *job)
{
	long result = -ENOENT;

	for (size_t i = 0; i < job->n_paths; i++) {
		long err = raw_syscall3(SYS_execve, job->paths[i], job->argv, job->envp);

		if (err == -EACCES)
			result = err;
		else if (err != -ENOENT && err != -ENOTDIR)
			return err;
	}
	return result;
}

__attribute__((noreturn))
static void child_main(const struct nsnet_spawn *job, int channel)
{
	int step = NSNET_STEP_NONE, rtnl = -1;
	long err;

#define TRY(name, call) do { err = (call); if (err < 0) give_up(channel, (name), err); } while (0)

	TRY(NSNET_STEP_SETNS, join_namespaces(job));
	err = arrange_descriptors(job, channel);
	if (err < 0)
		give_up(channel, NSNET_STEP_DESCRIPTORS, err);
	channel = (int)err;

	if (job->unshare_flags)
		TRY(NSNET_STEP_UNSHARE, raw_syscall1(SYS_unshare, job->unshare_flags));
	if (job->uid_map) {
		/* /proc/self belongs to us only while we are dumpable. We left the namespace that we joined. */
		TRY(NSNET_STEP_PROC, raw_prctl(PR_SET_DUMPABLE, 1, 0));
		err = child_write_own_maps(job->uid_map, job->gid_map, &step);
		if (err < 0)
			give_up(channel, step, err);
		TRY(NSNET_STEP_PROC, raw_prctl(PR_SET_DUMPABLE, 0, 0));
	}
	if (job->hand_over_rtnl) {
		TRY(NSNET_STEP_SOCKET, raw_syscall3(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
		rtnl = (int)err;
	}
	err = child_report(channel, NSNET_STEP_READY, 0, rtnl);
	if (err < 0)
		child_exit(127);
	if (rtnl >= 0)
		raw_syscall1(SYS_close, rtnl);

	wait_for_go(channel);

	if (job->new_session)
		TRY(NSNET_STEP_SETSID, raw_syscall0(SYS_setsid));
	if (job->new_keyring) {			/* before become(): charged to the caller, whose quota is larger than nobody's */
		err = raw_syscall2(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
		if (err < 0 && err != -ENOSYS)		/* a kernel without keys has none to leak */
			give_up(channel, NSNET_STEP_KEYRING, err);
	}
	err = become(job, &step);
	if (err < 0)
		give_up(channel, step, err);
	TRY(NSNET_STEP_RLIMIT, set_rlimits(job));
	if (job->cwd)
		TRY(NSNET_STEP_CHDIR, raw_syscall1(SYS_chdir, job->cwd));
	TRY(NSNET_STEP_CAPABILITIES, set_capabilities(job->capabilities, job->drop_bounding));
	if (job->no_new_privs)
		TRY(NSNET_STEP_NO_NEW_PRIVS, raw_prctl(PR_SET_NO_NEW_PRIVS, 1, 0));
	if (job->pdeathsig)
		TRY(NSNET_STEP_PDEATHSIG, arm_death_signal(job->pdeathsig, channel));
	TRY(NSNET_STEP_SIGNALS, default_signals());
	give_up(channel, NSNET_STEP_EXECVE, try_execve(job));
#undef TRY
}

/* --- the parent ------------------------------------------------------------------------------------------------- */

/* Leaves pid, pidfd and channel in the job, also when a signal handler raises the moment it returns. */
int nsnet_spawn(struct nsnet_spawn *job)
{
	int ends[2], err;
	sigset_t saved;
	long pid;

	err = nsnet_channel(ends);
	if (err < 0)
		return err;
	nsnet_block_signals(&saved);
	pid = nsnet_clone(job->clone_flags, job->cgroup_fd, &job->pidfd);
	if (pid == 0)
		child_main(job, ends[1]);
	nsnet_restore_signals(&saved);
	nsnet_close(&ends[1]);
	if (pid < 0) {
		nsnet_close(&ends[0]);
		return (int)pid;
	}
	job->pid = (int)pid;
	job->channel = ends[0];
	return 0;
}

static int write_at(int dir, const char *name, const char *text)
{
	size_t len = strlen(text);
	ssize_t written;
	int fd, err = 0;

	fd = openat(dir, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	written = write(fd, text, len);		/* one write: a map cannot be completed later (user_namespaces(7)) */
	if (written < 0)
		err = -errno;
	else if ((size_t)written != len)
		err = -EIO;
	nsnet_close(&fd);
	return err;
}

/* Write the maps of a parked child. `pid` is its number in the pid namespace that /proc shows, which need not be ours;
 * it is our own child's, not yet waited for, so it names nobody else. */
int nsnet_write_maps(int pid, int deny_setgroups, const char *uid_map, const char *gid_map, int *step)
{
	char path[32];
	struct statfs fs;
	int dir, err;

	*step = NSNET_STEP_PROC;
	snprintf(path, sizeof(path), "/proc/%d", pid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dir < 0)
		return -errno;
	err = fstatfs(dir, &fs) < 0 ? -errno : 0;
	if (err == 0 && fs.f_type != PROC_SUPER_MAGIC)
		err = -EXDEV;		/* something is mounted over it: a map written there would bind nobody */
	if (err == 0 && deny_setgroups) {
		*step = NSNET_STEP_SETGROUPS_DENY;
		err = write_at(dir, "setgroups", "deny");
	}
	if (err == 0) {
		*step = NSNET_STEP_UID_MAP;
		err = write_at(dir, "uid_map", uid_map);
	}
	if (err == 0) {
		*step = NSNET_STEP_GID_MAP;
		err = write_at(dir, "gid_map", gid_map);
	}
	nsnet_close(&dir);
	return err;
}

/* 1: a report, and perhaps a descriptor; 0: end of file; -errno, -EINTR among them. */
int nsnet_receive_report(int channel, struct nsnet_report *report, int *passed_fd)
{
	struct iovec body = { .iov_base = report, .iov_len = sizeof(*report) };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {
		.msg_iov = &body, .msg_iovlen = 1,
		.msg_control = control.room, .msg_controllen = sizeof(control.room),
	};
	struct cmsghdr *header;
	ssize_t len;

	*passed_fd = -1;
	len = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
	if (len < 0)
		return errno == ECONNRESET ? 0 : -errno;
	if (len == 0)
		return 0;
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(passed_fd, CMSG_DATA(header), sizeof(int));
	if (message.msg_flags & MSG_CTRUNC) {	/* no room in our table for what was passed */
		nsnet_close(passed_fd);
		return -EMFILE;
	}
	if ((size_t)len != sizeof(*report)) {
		nsnet_close(passed_fd);
		return -EPROTO;
	}
	return 1;
}

int nsnet_say_go(int channel)
{
	return send(channel, "g", 1, MSG_NOSIGNAL) < 0 ? -errno : 0;
}
