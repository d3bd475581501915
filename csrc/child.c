/*
 * The parts that all children of ours share.
 *
 * A child here is a copy of a process that may have many threads, made by one clone3 and alive until execve or exit.
 * It runs on its own copy of the memory, with every signal blocked. It may only make raw system calls (rawsys.h): no
 * allocation, no C library, no errno. It talks to its parent over one SOCK_SEQPACKET channel: a struct nsnet_report a
 * message, with at most one descriptor; end of file means that the other side is gone or has exec'd. It knows nothing
 * of networks, and it leaves words to Python.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "child.h"
#include "rawsys.h"

int nsnet_channel(int ends[2])
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	return 0;
}

/* clone3 that copies the memory: 0 in the child, the pid in the parent. Handlers of the parent's must never run in the
 * child, so the child starts with default dispositions (ignored signals stay ignored; spawn.c resets these). */
long nsnet_clone(uint64_t flags, int cgroup_fd, int *pidfd)
{
	struct clone_args args;
	long pid;

	memset(&args, 0, sizeof(args));
	args.flags = flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
	args.pidfd = (uint64_t)(uintptr_t)pidfd;
	args.exit_signal = SIGCHLD;
	if (cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup_fd;
	}
	pid = raw_syscall2(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		*pidfd = -1;	/* the kernel may have written the number of one that it has taken back */
	return pid;
}

void nsnet_block_signals(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved);
}

void nsnet_restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

void nsnet_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

int child_report(int channel, int step, int error, int fd)
{
	struct nsnet_report report = { .step = step, .error = error };
	struct iovec body = { .iov_base = &report, .iov_len = sizeof(report) };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message;
	long sent;

	/* Volatile, lest the compiler call memset. */
	for (volatile char *p = (char *)&message; p < (char *)(&message + 1); p++)
		*p = 0;
	message.msg_iov = &body;
	message.msg_iovlen = 1;
	if (fd >= 0) {
		for (volatile char *p = control.room; p < control.room + sizeof(control.room); p++)
			*p = 0;
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		*(int *)(void *)CMSG_DATA(&control.header) = fd;
		message.msg_control = control.room;
		message.msg_controllen = sizeof(control.room);
	}
	sent = raw_syscall3(SYS_sendmsg, channel, &message, MSG_NOSIGNAL);
	return sent < 0 ? (int)sent : 0;
}

static int write_file(const char *path, const char *text)
{
	size_t len = 0;
	long fd, written;

	/* Volatile, lest the compiler call strlen. */
	while (((const volatile char *)text)[len])
		len++;
	fd = raw_syscall4(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	written = raw_syscall3(SYS_write, fd, text, len);	/* the kernel takes a map in one write or not at all */
	raw_syscall1(SYS_close, fd);
	if (written < 0)
		return (int)written;
	return (size_t)written == len ? 0 : -EIO;
}

int child_write_own_maps(const char *uid_map, const char *gid_map, int *step)
{
	int err;

	*step = NSNET_STEP_SETGROUPS_DENY;	/* without it the kernel refuses an unprivileged gid_map */
	err = write_file("/proc/self/setgroups", "deny");
	if (err < 0)
		return err;
	*step = NSNET_STEP_UID_MAP;
	err = write_file("/proc/self/uid_map", uid_map);
	if (err < 0)
		return err;
	*step = NSNET_STEP_GID_MAP;
	return write_file("/proc/self/gid_map", gid_map);
}

void child_exit(int status)
{
	for (;;)
		raw_syscall1(SYS_exit_group, status);
}
