/*
 * A process in new namespaces: the parent's side. child.c has the other one, and the order of steps.
 *
 * The child becomes an image of this module (image.c), so that a launch costs the same whatever the parent's size: the only
 * calls that it makes in the parent's memory are those that lead to that execve, and the calling thread waits for it. Where
 * the file cannot be executed, the child is a copy of the parent.
 *
 * Knows what is made and undone around one clone3. Refuses to know defaults, names, search paths and policy: these are
 * process.py's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "parent.h"
#include "rawsys.h"

#define PART_BYTES 65536		/* of one message to the child: far below wmem_default */
#define STACK_BYTES 8192	/* for the few frames up to the execve; the thread's own stack may be as small as 32 KiB */

/* All of them: the C library's own call leaves out two that it keeps for itself, and forgets that a caller had blocked them. */
void nsnet_block_signals(uint64_t *saved)
{
	uint64_t all = ~(uint64_t)0;

	raw_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, &all, saved, sizeof(all));
}

void nsnet_restore_signals(const uint64_t *saved)
{
	raw_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, saved, 0, sizeof(*saved));
}

void nsnet_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

/* Wait for its end and close. ECHILD: the embedding program reaps everything. */
static void reap(int *pidfd)
{
	siginfo_t info;

	while (waitid(P_PIDFD, (id_t)*pidfd, &info, WEXITED) < 0 && errno == EINTR)
		;
	nsnet_close(pidfd);
}

int nsnet_has_image(void)
{
#ifdef RAW_HAS_IMAGE
	return 1;
#else
	return 0;
#endif
}

/* The calling thread's, bit n for capability n. */
int nsnet_capabilities(uint64_t *effective)
{
	struct powers own = { 0 };
	long err = child_capabilities(&own);

	*effective = own.effective;
	return (int)err;
}

/* --- waiting for it ----------------------------------------------------------------------------------------------- */

#define STOPPED_MS 1000		/* between two looks at whether somebody has stopped the child */

/* A child that may not go on would make us wait for ever: whoever shares its id may stop it. */
static int wait_for_channel(const struct nsnet_spawn *job, short events)
{
	struct pollfd file = { .fd = job->channel, .events = events };
	siginfo_t info;

	if (file.fd < 0)
		return -ECHILD;			/* it was ended */
	for (;;) {
		int ready = poll(&file, 1, STOPPED_MS);

		if (ready > 0)
			return 0;
		if (ready < 0)
			return -errno;
		memset(&info, 0, sizeof(info));
		if (waitid(P_PIDFD, (id_t)job->pidfd, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info.si_pid)
			return -ECANCELED;
	}
}

/* A report has come, or the end of the channel. */
int nsnet_wait_for_report(struct nsnet_spawn *job)
{
	return wait_for_channel(job, POLLIN);
}

/* --- the job as bytes --------------------------------------------------------------------------------------------- */

struct bytes {
	char *start;		/* NULL: only count */
	size_t len;
};

static void *put(struct bytes *bytes, const void *data, size_t len)
{
	size_t at = bytes->len;

	if (!data)
		return NULL;
	if (bytes->start)
		memcpy(bytes->start + at, data, len);
	bytes->len = (at + len + 7) & ~(size_t)7;
	return (void *)(uintptr_t)at;
}

static void *put_text(struct bytes *bytes, const char *text)
{
	return put(bytes, text, text ? strlen(text) + 1 : 0);
}

/* An array of `count` strings, the last of which may be NULL. */
static void *put_words(struct bytes *bytes, const char *const *words, size_t count)
{
	size_t at = bytes->len;
	void *array = put(bytes, words, count * sizeof(*words));

	for (size_t i = 0; i < count; i++) {
		void *offset = put_text(bytes, words[i]);

		if (bytes->start)
			memcpy(bytes->start + at + i * sizeof(offset), &offset, sizeof(offset));
	}
	return array;
}

static size_t count_of(char *const *words)
{
	size_t count = 1;

	while (words[count - 1])
		count++;
	return count;
}

/* What an image has from its execve is left out: words, and descriptors, which are in their places. */
static void pack_command(struct nsnet_command *packed, struct bytes *bytes, int is_given)
{
	packed->paths = put_words(bytes, packed->paths, packed->n_paths);
	packed->argv = is_given ? put_words(bytes, (const char *const *)packed->argv, count_of(packed->argv)) : NULL;
	packed->envp = is_given ? put_words(bytes, (const char *const *)packed->envp, count_of(packed->envp)) : NULL;
	packed->moves = is_given ? put(bytes, packed->moves, packed->n_moves * sizeof(*packed->moves)) : NULL;
	packed->cwd = put_text(bytes, packed->cwd);
	packed->oom_score_adj = put_text(bytes, packed->oom_score_adj);
	packed->groups = put(bytes, packed->groups, packed->n_groups * sizeof(*packed->groups));
}

static void pack_job(const void *from, struct bytes *bytes)
{
	const struct nsnet_spawn *job = from;
	struct packed_job packed = { .head = { .magic = JOB_MAGIC, .size = sizeof(*job) }, .job = *job };
	size_t sysctls;

	put(bytes, &packed, sizeof(packed));
	pack_command(&packed.job.command, bytes, 0);
	packed.job.joins = put(bytes, job->joins, job->n_joins * sizeof(*job->joins));
	packed.job.oom_score_adj = put_text(bytes, job->oom_score_adj);
	packed.job.uid_map = put_text(bytes, job->uid_map);
	packed.job.gid_map = put_text(bytes, job->gid_map);
	packed.job.hostname = put_text(bytes, job->hostname);
	sysctls = bytes->len;
	packed.job.sysctls = put(bytes, job->sysctls, job->n_sysctls * sizeof(*job->sysctls));
	for (size_t i = 0; i < job->n_sysctls; i++) {
		struct nsnet_sysctl row = job->sysctls[i];

		row.path = put_text(bytes, row.path);
		row.value = put_text(bytes, row.value);
		row.room = NULL;
		if (bytes->start)
			memcpy(bytes->start + sysctls + i * sizeof(row), &row, sizeof(row));
	}
	packed.head.total = (uint32_t)bytes->len;
	if (bytes->start)
		memcpy(bytes->start, &packed, sizeof(packed));
}

static void pack_given(const void *from, struct bytes *bytes)
{
	const struct nsnet_command *command = from;
	struct packed_command packed = {
		.head = { .magic = COMMAND_MAGIC, .size = sizeof(*command) }, .command = *command };

	put(bytes, &packed, sizeof(packed));
	pack_command(&packed.command, bytes, 1);
	packed.head.total = (uint32_t)bytes->len;
	packed.head.n_fds = (uint32_t)(command->n_moves + (command->cwd_fd >= 0));
	if (bytes->start)
		memcpy(bytes->start, &packed, sizeof(packed));
}

/* A descriptor of the n-th of those that go along. */
static int fd_of(const struct nsnet_command *command, size_t n)
{
	return n < command->n_moves ? command->moves[n].source : command->cwd_fd;
}

/* One message, with descriptors from the `first` on. Bytes that were sent, or -errno. */
static long send_part(int channel, const char *start, size_t len, const struct nsnet_command *command, size_t first, size_t n_fds)
{
	struct iovec body = { .iov_base = (char *)(uintptr_t)start, .iov_len = len };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(MOST_FDS * sizeof(int))];
	} control;
	struct msghdr message = { .msg_iov = &body, .msg_iovlen = 1 };
	ssize_t sent;

	if (n_fds) {
		memset(&control.header, 0, sizeof(control.header));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		for (size_t i = 0; i < n_fds; i++) {
			int fd = fd_of(command, first + i);

			memcpy(CMSG_DATA(&control.header) + i * sizeof(fd), &fd, sizeof(fd));
		}
		message.msg_control = control.room;
		message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
	}
	sent = sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	return sent < 0 ? -errno : sent;
}

/* What is packed, from `*sent` on, in as many messages as it takes: the bytes and the descriptors in even parts. */
static int send_packed(struct nsnet_spawn *job, const struct bytes *bytes, const struct nsnet_command *command, size_t n_fds,
		       size_t *sent)
{
	size_t by_bytes = (bytes->len + PART_BYTES - 1) / PART_BYTES, by_fds = (n_fds + MOST_FDS - 1) / MOST_FDS;
	size_t parts = by_bytes > by_fds ? by_bytes : by_fds, part = (bytes->len + parts - 1) / parts;

	while (*sent < bytes->len) {
		size_t first = *sent / part * MOST_FDS, left = n_fds > first ? n_fds - first : 0;
		size_t len = bytes->len - *sent < part ? bytes->len - *sent : part;
		long result = send_part(job->channel, bytes->start + *sent, len, command, first, left < MOST_FDS ? left : MOST_FDS);

		if (result == -EAGAIN)
			result = wait_for_channel(job, POLLOUT);
		if (result < 0)
			return (int)result;
		*sent += (size_t)result;
	}
	return 0;
}

static int send_what(struct nsnet_spawn *job, void (*pack)(const void *, struct bytes *), const void *from,
		     const struct nsnet_command *command, size_t n_fds, size_t *sent)
{
	struct bytes bytes = { 0 };
	int err;

	pack(from, &bytes);
	if (bytes.len > MOST_PACKED)
		return -E2BIG;
	bytes.start = calloc(1, bytes.len);
	if (!bytes.start)
		return -ENOMEM;
	bytes.len = 0;
	pack(from, &bytes);
	err = send_packed(job, &bytes, command, n_fds, sent);
	free(bytes.start);
	return err;
}

static int send_job(struct nsnet_spawn *job)
{
	size_t sent = 0;

	return send_what(job, pack_job, job, NULL, 0, &sent);
}

/* Give a slot its command, which it runs (nsnet_go() says with what success) or, if that `waits`, is ready to run. -ECHILD: it
 * had ended before; -EINTR: call again; other -errno. */
int nsnet_give(struct nsnet_spawn *job, const struct nsnet_command *command)
{
	int err;

	if (!job->slot || job->stage != NSNET_STAGE_CHILD)
		return -EINVAL;
	if (job->channel < 0)
		return -ECHILD;
	err = send_what(job, pack_given, command, command, command->n_moves + (command->cwd_fd >= 0), &job->given);
	if (err == 0 && !command->waits)
		job->stage = NSNET_STAGE_GOING;
	return err == -EPIPE || err == -ECONNRESET ? -ECHILD : err;
}

/* --- reports ------------------------------------------------------------------------------------------------------ */

/* Keep one of the descriptors that came; the child sends no more than that, so the others are somebody else's trick. */
static void take_first(struct cmsghdr *header, int *passed_fd)
{
	size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

	for (size_t i = 0; i < count; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(header) + i * sizeof(fd), sizeof(fd));
		if (*passed_fd < 0)
			*passed_fd = fd;
		else
			nsnet_close(&fd);
	}
}

/* 1: a report, and perhaps a descriptor; 0: end of file; -errno, -EINTR among them. */
static int receive(int channel, struct nsnet_report *report, int *passed_fd)
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
	for (header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_level != SOL_SOCKET)
			continue;
		if (header->cmsg_type == SCM_RIGHTS)
			take_first(header, passed_fd);
	}
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

/* --- the clone ---------------------------------------------------------------------------------------------------- */

/* Handlers of the parent's must never run in the child, so it starts with default dispositions (ignored signals stay ignored
 * until the child resets them). */
static struct clone_args arguments(struct nsnet_spawn *job)
{
	struct clone_args args;

	memset(&args, 0, sizeof(args));
	args.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
	args.pidfd = (uint64_t)(uintptr_t)&job->pidfd;
	args.exit_signal = SIGCHLD;
	if (job->cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)job->cgroup_fd;
	}
	return args;
}

static long clone_image(struct birth *birth)
{
#ifdef RAW_HAS_IMAGE
	char stack[STACK_BYTES] __attribute__((aligned(16)));
	struct clone_args args = arguments(birth->job);

	args.flags |= CLONE_VM | CLONE_VFORK;
	args.stack = (uint64_t)(uintptr_t)stack;
	args.stack_size = sizeof(stack);
	return raw_clone_vm(&args, sizeof(args), child_to_image, birth);
#else
	(void)birth;
	return -ENOSYS;
#endif
}

static long clone_memory(struct birth *birth)
{
	struct clone_args args = arguments(birth->job);
	long pid = raw_syscall2(SYS_clone3, &args, sizeof(args));

	if (pid == 0)
		child_of_memory(birth);
	return pid;
}

/* Our end of the channel, which the child makes. It may die before. */
static int receive_channel(int boot, int pidfd, int *channel)
{
	struct pollfd files[] = { { .fd = boot, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
	struct nsnet_report ignored;
	int err;

	*channel = -1;
	while (poll(files, 2, -1) < 0)
		if (errno != EINTR)
			return -errno;
	if (!(files[0].revents & POLLIN))
		return -ESRCH;
	err = receive(boot, &ignored, channel);
	if (err > 0 && *channel < 0)
		err = -EPROTO;
	return err < 0 ? err : err == 0 ? -ESRCH : 0;
}

static int make_child(struct nsnet_spawn *job, int image)
{
	struct birth birth = { .job = job };
	int ends[2], err;
	long pid;

	job->step = NSNET_STEP_HANDOVER;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	birth.boot = ends[1];
	job->owner = getpid();
	job->step = NSNET_STEP_CLONE3;
	pid = image ? clone_image(&birth) : clone_memory(&birth);
	nsnet_close(&ends[1]);
	if (pid < 0) {
		job->pidfd = -1;	/* the kernel may have written the number of one that it has taken back */
		err = (int)pid;
		goto out;
	}
	if (birth.error) {
		job->step = birth.step;
		err = (int)birth.error;
		reap(&job->pidfd);
		goto out;
	}
	job->pid = (int)pid;
	job->stage = NSNET_STAGE_CHILD;
	job->step = NSNET_STEP_HANDOVER;
	err = receive_channel(ends[0], job->pidfd, &job->channel);
	if (err == 0 && image)
		err = send_job(job);
	if (image && (err == -EPIPE || err == -ECONNRESET)) {	/* it did not come to life (a build that needs a C library) */
		job->step = NSNET_STEP_IMAGE;
		nsnet_end(job);
		job->stage = NSNET_STAGE_NONE;
		job->ended = 0;
	}
out:
	nsnet_close(&ends[0]);
	return err;
}

/* Leaves pid, pidfd and channel in the job, also when a signal handler raises the moment it returns; after an error they may
 * be there as well. */
int nsnet_spawn(struct nsnet_spawn *job)
{
	uint64_t saved;
	int err = -ENOSYS;

	nsnet_block_signals(&saved);
	job->step = NSNET_STEP_IMAGE;
	if (job->image_fd >= 0)
		err = make_child(job, 1);
	/* Below a user namespace that is joined the child has to let itself be looked into: no place for our memory. */
	if (err < 0 && job->step == NSNET_STEP_IMAGE && !(job->uid_map && job->n_joins))
		err = make_child(job, 0);
	nsnet_restore_signals(&saved);
	return err;
}

/* --- the maps ----------------------------------------------------------------------------------------------------- */

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

/* /proc/PID of a parked child. `pid` is its number in the pid namespace that /proc shows, which need not be ours; it is our own
 * child's, not yet waited for, so it names nobody else. */
static int open_proc_of(int pid)
{
	char path[32];
	struct statfs fs;
	int dir, err;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dir < 0)
		return -errno;
	err = fstatfs(dir, &fs) < 0 ? -errno : 0;
	if (err == 0 && fs.f_type != PROC_SUPER_MAGIC)
		err = -EXDEV;		/* something is mounted over it: a map written there would bind nobody */
	if (err < 0)
		nsnet_close(&dir);
	return err < 0 ? err : dir;
}

int nsnet_write_maps(int pid, int deny_setgroups, const char *uid_map, const char *gid_map, int *step)
{
	int dir, err = 0;

	*step = NSNET_STEP_PROC;
	dir = open_proc_of(pid);
	if (dir < 0)
		return dir;
	if (deny_setgroups) {
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

/* For a slot, which has not the caller's power any more when its command is known. EACCES: where it is hidden from us it has to do
 * it itself, for which that power was not needed. */
int nsnet_write_oom_score_adj(int pid, const char *value, int *step)
{
	int dir, err;

	*step = NSNET_STEP_PROC;
	dir = open_proc_of(pid);
	if (dir < 0)
		return dir;
	*step = NSNET_STEP_OOM_SCORE_ADJ;
	err = write_at(dir, "oom_score_adj", value);
	nsnet_close(&dir);
	return err;
}

/* --- from parked to ended ----------------------------------------------------------------------------------------- */

/* Whether a pidfd is that of a child of ours, as a second self must be. */
static int is_our_child(int pidfd)
{
	siginfo_t info;

	return waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

/* From now on the child is its second self. The first has ended, and is collected here. */
static int move(struct nsnet_spawn *job, const struct nsnet_report *report)
{
	int before = job->pidfd;

	if (job->moved || !job->moves_pid || report->pid <= 0 || job->passed_fd < 0 || !is_our_child(job->passed_fd))
		return -EPROTO;
	job->moved = 1;
	job->pid = report->pid;
	job->pidfd = job->passed_fd;
	job->passed_fd = -1;
	reap(&before);
	return send(job->channel, "m", 1, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET ? -errno : 0;
}

/* 1: a report, and perhaps a descriptor, in passed_fd; 0: end of the channel; -ECANCELED: somebody has stopped the child; other
 * -errno, -EINTR among them. */
int nsnet_receive(struct nsnet_spawn *job, struct nsnet_report *report)
{
	for (;;) {
		int err;

		nsnet_close(&job->passed_fd);
		err = nsnet_wait_for_report(job);
		if (err == 0)
			err = receive(job->channel, report, &job->passed_fd);
		if (err <= 0 || report->step != NSNET_STEP_MOVED || report->error)
			return err;
		err = move(job, report);
		if (err < 0)
			return err;
	}
}

/* Let a parked child run its command. 0: it does; 1: the report says what failed; -ECHILD: it has ended before; -EINTR: call
 * again. */
int nsnet_go(struct nsnet_spawn *job, struct nsnet_report *report)
{
	int err;

	if (job->stage == NSNET_STAGE_CHILD) {
		/* It may be gone: then there is a last report, or the end of the channel. */
		if (send(job->channel, "g", 1, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
			return -errno;
		job->stage = NSNET_STAGE_GOING;
	}
	/* Wait once: for the end of the channel, behind which all is there that it has said. */
	err = wait_for_channel(job, POLLRDHUP);
	if (err < 0)
		return err;
	for (;;) {
		nsnet_close(&job->passed_fd);
		err = receive(job->channel, report, &job->passed_fd);
		if (err < 0 || (err > 0 && report->error))
			return err;
		if (err == 0)
			break;
		if (report->step == NSNET_STEP_EXECVE)
			job->stage = NSNET_STAGE_EXECVE;
	}
	if (job->stage != NSNET_STAGE_EXECVE)
		return -ECHILD;
	job->stage = NSNET_STAGE_RUNNING;
	nsnet_close(&job->channel);
	return 0;
}

/* What the kernel remembers of a process that somebody else has waited for. */
static int remembered_status(struct nsnet_spawn *job)
{
	struct {				/* <linux/pidfd.h>, struct pidfd_info, Linux 6.13 */
		uint64_t mask, cgroup;
		uint32_t ids[11];
		int32_t exit_code;
	} info = { .mask = 1 << 3 };		/* PIDFD_INFO_EXIT, Linux 6.15 */

	if (ioctl(job->pidfd, _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, sizeof(info)), &info) < 0 || !(info.mask & 1 << 3))
		return 0;
	job->status = WIFSIGNALED(info.exit_code) ? -WTERMSIG(info.exit_code) : WEXITSTATUS(info.exit_code);
	return 1;
}

/* Take its status if it has ended: 1, and 0 if it has not. */
int nsnet_collect(struct nsnet_spawn *job)
{
	siginfo_t info = { 0 };

	if (job->ended)
		return 1;
	while (waitid(P_PIDFD, (id_t)job->pidfd, &info, WEXITED | WNOHANG) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != ECHILD)
			return -errno;
		job->ended = remembered_status(job) ? 1 : 2;
		return 1;
	}
	if (!info.si_pid)
		return 0;
	job->status = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
	job->ended = 1;
	return 1;
}

/* Wait for its end; 0, or -ETIMEDOUT. Forever (-1) is cut short by a signal: -EINTR. */
static int wait_for_end(const struct nsnet_spawn *job, int milliseconds)
{
	struct pollfd file = { .fd = job->pidfd, .events = POLLIN };
	int ready;

	do {
		ready = poll(&file, 1, milliseconds);
	} while (ready < 0 && errno == EINTR && milliseconds >= 0);
	return ready < 0 ? -errno : ready ? 0 : -ETIMEDOUT;
}

/* A child that is about to clone itself is not to be killed in between: nobody would know of its second self. It does so, or
 * fails, without waiting for anybody. */
static void let_it_move(struct nsnet_spawn *job)
{
	struct nsnet_report report;

	if (!job->moves_pid || job->moved || job->channel < 0)
		return;
	wait_for_end(job, STOPPED_MS);
	nsnet_close(&job->passed_fd);
	while (fcntl(job->channel, F_SETFL, O_NONBLOCK) == 0 && receive(job->channel, &report, &job->passed_fd) > 0) {
		if (report.step == NSNET_STEP_MOVED && !report.error && move(job, &report) == 0)
			return;
		nsnet_close(&job->passed_fd);
	}
}

/* Kill it, collect it, let go of everything: 0. -EINTR: call again. Whom we may not kill (a setuid program) is let go. In a fork
 * of the process that made it: only let go. `milliseconds`: for its end; -1: however long it takes. */
static int end_within(struct nsnet_spawn *job, int milliseconds)
{
	if (job->pidfd >= 0 && job->owner == getpid() && !job->ended) {
		let_it_move(job);
		if (syscall(SYS_pidfd_send_signal, job->pidfd, SIGKILL, NULL, 0) == 0 || errno == ESRCH) {
			job->stage = NSNET_STAGE_CHILD;		/* whoever is interrupted here leaves it to nsnet_drop() */
			if (wait_for_end(job, milliseconds) == -EINTR)
				return -EINTR;
		}
		nsnet_collect(job);
	}
	nsnet_close(&job->channel);
	nsnet_close(&job->passed_fd);
	nsnet_close(&job->pidfd);
	return 0;
}

int nsnet_end(struct nsnet_spawn *job)
{
	return end_within(job, -1);
}

/* The last that anybody does with a job. Whoever is parked has nobody left to tell it to go; a command runs on. */
void nsnet_drop(struct nsnet_spawn *job)
{
	if (job->stage != NSNET_STAGE_RUNNING) {
		end_within(job, STOPPED_MS);
		return;
	}
	if (job->pidfd >= 0 && job->owner == getpid())
		nsnet_collect(job);
	nsnet_close(&job->passed_fd);
	nsnet_close(&job->pidfd);
}
