/*
 * The child: from clone to execve.
 *
 * It makes what the parent asked for in a fixed order and fails closed: the first step that fails is reported as
 * {step, errno} and ends it. Everything that it needs was laid out before the clone. It may only make raw system calls
 * (rawsys.h): no allocation, no C library, no errno, nothing that the dynamic linker would have to resolve. For this code
 * runs in two places where there is no C library to call:
 *
 * - as an image: the parent executes the file of this module in the child, so that nothing of its memory is copied or
 *   shared, however much there is (image.c is the entry);
 * - where that cannot be, in a copy of the parent's memory, where any thread may have held any lock.
 *
 * In between, for the few calls up to that execve, the child shares the parent's memory, on a stack of its own, while the
 * calling thread waits (CLONE_VFORK). It has the parent's credentials there and no new namespace, so nobody may look into
 * it who may not look into the parent.
 *
 * It talks to its parent over one SOCK_SEQPACKET channel: a struct nsnet_report a message, with at most one descriptor, and a
 * result for each sysctl, or a report for each further network namespace, behind the one that says it is ready. The child
 * makes both ends and hands one up, hence its own end is in no other process: end of file means that it has exec'd or ended,
 * whoever forks whatever meanwhile. It knows nothing of networks, and it leaves words to Python.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/vfs.h>

#include "child.h"
#include "rawsys.h"

#define LAST_SIGNAL 64
#define LAST_CAPABILITY 63
#define MAX_OWN 12		/* channel, image, parent, and one namespace of each kind */

/* The kernel's struct sigaction; the C library's differs. */
struct kernel_sigaction {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

NSNET_BARE static long raw_prctl(long option, long a, long b)
{
	return raw_syscall5(SYS_prctl, option, a, b, 0, 0);
}

/* Volatile, lest the compiler call memset. */
NSNET_BARE static void zero(void *start, size_t size)
{
	for (volatile char *p = start; size--; p++)
		*p = 0;
}

NSNET_BARE static size_t length(const char *text)
{
	size_t len = 0;

	while (((const volatile char *)text)[len])
		len++;
	return len;
}

NSNET_BARE void child_exit(int status)
{
	for (;;)
		raw_syscall1(SYS_exit_group, status);
}

/* --- talking to the parent ---------------------------------------------------------------------------------------- */

/* A step, the error in it or 0, a pid, and a descriptor unless that is -1. */
NSNET_BARE static long say(int socket, int step, long error, int pid, int fd)
{
	struct nsnet_report text = { .step = step, .error = (int)-error, .pid = pid };
	struct iovec body = { .iov_base = &text, .iov_len = sizeof(text) };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message;

	zero(&message, sizeof(message));
	message.msg_iov = &body;
	message.msg_iovlen = 1;
	if (fd >= 0) {
		zero(control.room, sizeof(control.room));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		*(int *)(void *)CMSG_DATA(&control.header) = fd;
		message.msg_control = control.room;
		message.msg_controllen = sizeof(control.room);
	}
	return raw_syscall3(SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
}

NSNET_BARE static long report(int socket, int step, long error, int fd)
{
	return say(socket, step, error, 0, fd);
}

__attribute__((noreturn))
NSNET_BARE static void give_up(int channel, int step, long error)
{
	report(channel, step, error, -1);
	child_exit(127);
}

/* Make the channel and hand the parent its end. */
NSNET_BARE static long make_channel(int boot)
{
	int ends[2];
	long err;

	err = raw_syscall4(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
	if (err < 0)
		return err;
	err = report(boot, NSNET_STEP_HANDOVER, 0, ends[0]);
	if (err < 0)
		return err;
	raw_syscall1(SYS_close, ends[0]);
	return ends[1];
}

/* Until it says something, or has room for what we say (`events`). End of the channel means that it is gone, and so are we; its
 * own end (a pidfd, or -1) as well, for whoever was forked by it may hold the other end of the channel. */
NSNET_BARE static void wait_for_parent(int channel, int parent_fd, short events)
{
	struct pollfd files[2];
	long got;

	for (;;) {
		zero(files, sizeof(files));
		files[0].fd = channel;
		files[1].fd = parent_fd;
		files[0].events = events;
		files[1].events = POLLIN;
		got = raw_syscall5(SYS_ppoll, files, 2, 0, 0, 0);
		if (got < 0 && got != -EINTR)
			child_exit(127);
		if (got > 0 && files[0].revents)
			return;
		if (got > 0 && files[1].revents)
			child_exit(127);
	}
}

/* One message of what is packed, and the descriptors in it. Bytes; 0: end of the channel. */
NSNET_BARE static long receive_part(int channel, void *room, size_t len, int *fds, size_t n_fds, size_t *n_received)
{
	struct iovec body = { .iov_base = room, .iov_len = len };
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(MOST_FDS * sizeof(int))];
	} control;
	struct cmsghdr *header;
	struct msghdr message;
	long got;

	zero(&message, sizeof(message));
	message.msg_iov = &body;
	message.msg_iovlen = 1;
	message.msg_control = control.room;
	message.msg_controllen = sizeof(control.room);
	do {
		got = raw_syscall3(SYS_recvmsg, channel, &message, MSG_CMSG_CLOEXEC);
	} while (got == -EINTR);
	if (got > 0 && message.msg_flags & MSG_CTRUNC)		/* no room in our table */
		return -EMFILE;
	if (got > 0 && message.msg_flags & MSG_TRUNC)
		return -EPROTO;
	*n_received = 0;
	header = CMSG_FIRSTHDR(&message);
	if (got <= 0 || !header)
		return got;
	*n_received = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS || *n_received > n_fds)
		return -EPROTO;
	for (size_t i = 0; i < *n_received; i++)		/* volatile: no memcpy */
		((volatile int *)fds)[i] = ((const int *)(void *)CMSG_DATA(header))[i];
	return got;
}

/* What is packed, in memory of its own. `parent_fd`: as above. 0, or -errno. */
NSNET_BARE long child_receive(int channel, int parent_fd, uint32_t magic, uint32_t size, struct packed **packed)
{
	struct packed head;
	size_t have = 0, n_fds = 0, n;
	long got;
	int *fds;

	do {
		got = raw_syscall6(SYS_recvfrom, channel, RAW_ARG(&head), sizeof(head), MSG_PEEK, 0, 0);
	} while (got == -EINTR);
	if (got < 0)
		return got;
	if (got != sizeof(head) || head.magic != magic || head.size != size || head.total < sizeof(head) + size ||
	    head.total > MOST_PACKED || head.total % 8 || head.n_fds > head.total)
		return -EPROTO;
	got = raw_syscall6(SYS_mmap, 0, head.total + head.n_fds * sizeof(int), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (got < 0 && got > -4096)
		return got;
	*packed = (struct packed *)got;
	fds = (int *)(void *)((char *)*packed + head.total);
	while (have < head.total) {
		if (have)
			wait_for_parent(channel, parent_fd, POLLIN);
		got = receive_part(channel, (char *)*packed + have, head.total - have, fds + n_fds, head.n_fds - n_fds, &n);
		if (got <= 0)
			return got < 0 ? got : -EPIPE;
		have += (size_t)got;
		n_fds += n;
	}
	return n_fds == head.n_fds ? 0 : -EPROTO;
}

NSNET_BARE void child_unpack(struct packed *packed, struct nsnet_command *command)
{
	PLACE(packed, command->paths);
	PLACE(packed, command->argv);
	PLACE(packed, command->envp);
	PLACE(packed, command->cwd);
	PLACE(packed, command->oom_score_adj);
	PLACE(packed, command->moves);
	PLACE(packed, command->groups);
	for (size_t i = 0; i < command->n_paths; i++)
		PLACE(packed, ((const char **)command->paths)[i]);
	for (char **word = (char **)command->argv; word && *word; word++)
		PLACE(packed, *word);
	for (char **word = (char **)command->envp; word && *word; word++)
		PLACE(packed, *word);
}

/* --- descriptors -------------------------------------------------------------------------------------------------- */

/* The descriptors of the child's own that it still needs, by where their numbers are kept. */
struct own {
	int *fds[MAX_OWN];
	size_t count;
};

NSNET_BARE static int is_target(const struct nsnet_command *command, int fd)
{
	size_t low = 0, high = command->n_moves;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (command->moves[middle].target == fd)
			return 1;
		if (command->moves[middle].target < fd)
			low = middle + 1;
		else
			high = middle;
	}
	return 0;
}

/* A copy under a number that no descriptor of the command's will have. */
NSNET_BARE static long copy_aside(const struct nsnet_command *command, int fd, int cloexec)
{
	long copy, from = 0;

	for (;;) {
		copy = raw_syscall3(SYS_fcntl, fd, cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, from);
		if (copy < 0 || !is_target(command, (int)copy))
			return copy;
		from = copy + 1;	/* what is left behind here is written over soon */
	}
}

/* The smallest number from `from` on that is to stay open; -1: none. */
NSNET_BARE static int next_kept(const struct nsnet_command *command, const struct own *own, int moved, int from)
{
	int found = -1;

	for (size_t i = 0; i < own->count; i++)
		if (*own->fds[i] >= from && (found < 0 || *own->fds[i] < found))
			found = *own->fds[i];
	for (size_t i = 0; i < command->n_moves; i++) {
		int fd = moved ? command->moves[i].target : command->moves[i].source;

		if (fd >= from && (found < 0 || fd < found))
			found = fd;
	}
	return found;
}

NSNET_BARE static long close_others(const struct nsnet_command *command, const struct own *own, int moved)
{
	int from = 0;

	for (;;) {
		int kept = next_kept(command, own, moved, from);
		long err = 0;

		if (kept < 0)
			return raw_syscall3(SYS_close_range, from, ~0U, 0);
		if (kept > from)
			err = raw_syscall3(SYS_close_range, from, kept - 1, 0);
		if (err < 0)
			return err;
		from = kept + 1;
	}
}

/* Put every wanted descriptor where it belongs and close all others. First all sources are copied to where no move writes,
 * so that none overwrites a source that is still to be moved; before that, all others are closed to make room. What the
 * child needs itself gets numbers out of the way; of these only `own->fds[0]` is closed by an execve. */
NSNET_BARE static long arrange_descriptors(struct nsnet_command *command, struct own *own)
{
	long fd = close_others(command, own, 0);

	if (fd < 0)
		return fd;
	for (size_t i = 0; i < command->n_moves; i++) {
		if (command->moves[i].source == command->moves[i].target)
			continue;
		fd = copy_aside(command, command->moves[i].source, 1);
		if (fd < 0)
			return fd;
		command->moves[i].aside = (int)fd;
	}
	for (size_t i = 0; i < own->count; i++) {
		fd = copy_aside(command, *own->fds[i], i == 0);
		if (fd < 0)
			return fd;
		*own->fds[i] = (int)fd;
	}
	for (size_t i = 0; i < command->n_moves; i++) {
		if (command->moves[i].source == command->moves[i].target)	/* there already; an execve is not to close it */
			fd = raw_syscall3(SYS_fcntl, command->moves[i].target, F_SETFD, 0);
		else
			fd = raw_syscall3(SYS_dup3, command->moves[i].aside, command->moves[i].target, 0);
		if (fd < 0)
			return fd;
	}
	return close_others(command, own, 1);
}

/* `first`: the one that an execve is to close. */
NSNET_BARE static void own_descriptors(struct nsnet_spawn *job, struct own *own, int *first, int *second)
{
	own->count = 0;
	own->fds[own->count++] = first;
	if (second)
		own->fds[own->count++] = second;
	if (job->parent_fd >= 0)
		own->fds[own->count++] = &job->parent_fd;
	for (size_t i = 0; i < job->n_joins; i++) {
		job->joins[i].inside = job->joins[i].fd;
		own->fds[own->count++] = &job->joins[i].inside;
	}
}

/* --- capabilities -------------------------------------------------------------------------------------------------- */

NSNET_BARE long child_capabilities(struct powers *powers)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	long err = raw_syscall2(SYS_capget, &header, data);

	if (err < 0)
		return err;
	powers->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	powers->effective = data[0].effective | (uint64_t)data[1].effective << 32;
	return 0;
}

NSNET_BARE static long capset(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	for (int half = 0; half < 2; half++) {
		data[half].effective = (uint32_t)(effective >> (32 * half));
		data[half].permitted = (uint32_t)(permitted >> (32 * half));
		data[half].inheritable = (uint32_t)(inheritable >> (32 * half));
	}
	return raw_syscall2(SYS_capset, &header, data);
}

NSNET_BARE static long raise_ambient(uint64_t wanted)
{
	for (int cap = 0; cap <= LAST_CAPABILITY; cap++) {
		long err = wanted >> cap & 1 ? raw_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap) : 0;

		if (err < 0)
			return err;
	}
	return 0;
}

/* Whoever shares our namespaces or our id from here on is not to look into us: at our memory, our descriptors or the file that
 * we execute. The kernel takes this back with the command's own execve. */
NSNET_BARE static long hide(void)
{
	return raw_prctl(PR_SET_DUMPABLE, 0, 0);
}

/* --- namespaces --------------------------------------------------------------------------------------------------- */

/* Before a user namespace is entered: inside, setgroups may be denied for ever. An unprivileged caller keeps its own groups. */
NSNET_BARE static long drop_groups(void)
{
	long err = raw_syscall2(SYS_setgroups, 0, 0);

	return err == -EPERM ? 0 : err;
}

NSNET_BARE static long join_user_namespace(int fd, int go_below)
{
	long err = drop_groups();

	if (err < 0)
		return err;
	err = raw_syscall2(SYS_setns, fd, CLONE_NEWUSER);
	if (err < 0 || !go_below)
		return err;
	/* Only who has an id there may make a namespace below: its root, whom we become anyway, if there is one. */
	err = raw_syscall3(SYS_setresgid, 0, 0, 0);
	if (err < 0 && err != -EINVAL)
		return err;
	err = raw_syscall3(SYS_setresuid, 0, 0, 0);
	return err < 0 && err != -EINVAL ? err : hide();
}

/* A namespace that belongs to the user namespace that is joined needs power there; one of the caller's needs it here. As
 * nsenter(1) does: first those that can be entered as we are, then the user namespace, then the rest. */
NSNET_BARE static long join_namespaces(const struct nsnet_spawn *job)
{
	uint64_t left = 0;
	long err = 0;

	/* But the parent can write maps only while it may look. */
	if (job->n_joins && (!(job->new_flags & CLONE_NEWUSER) || job->uid_map))
		err = hide();
	if (err < 0)
		return err;
	for (size_t i = 0; i < job->n_joins; i++) {
		if (job->joins[i].type == CLONE_NEWUSER) {
			left |= 1u << i;
			continue;
		}
		err = raw_syscall2(SYS_setns, job->joins[i].inside, job->joins[i].type);
		if (err == -EPERM)
			left |= 1u << i;
		else if (err < 0)
			return err;
	}
	for (size_t i = 0; i < job->n_joins; i++) {		/* the user namespace is the first of the list */
		if (!(left >> i & 1))
			continue;
		if (job->joins[i].type == CLONE_NEWUSER)
			err = join_user_namespace(job->joins[i].inside, (job->new_flags & CLONE_NEWUSER) != 0);
		else
			err = raw_syscall2(SYS_setns, job->joins[i].inside, job->joins[i].type);
		if (err < 0)
			return err;
	}
	for (size_t i = 0; i < job->n_joins; i++)
		raw_syscall1(SYS_close, job->joins[i].inside);
	return 0;
}

/* Parked: until the parent says go. */
NSNET_BARE static void wait_for_go(const struct nsnet_spawn *job, int channel)
{
	char go;
	long got;

	wait_for_parent(channel, job->parent_fd, POLLIN);
	do {
		got = raw_syscall6(SYS_recvfrom, channel, RAW_ARG(&go), 1, 0, 0, 0);
	} while (got == -EINTR);
	if (got <= 0)
		child_exit(127);
}

/* A process that joins or makes some namespaces stays outside: only its children are inside. So it makes one that is its
 * parent's child, not its own, tells the parent, and ends; the other goes on when the parent knows of it. */
NSNET_BARE static long clone_again(const struct nsnet_spawn *job, uint64_t flags, int channel)
{
	struct clone_args args;
	int pidfd = -1;
	long pid;

	zero(&args, sizeof(args));
	args.flags = flags | CLONE_PARENT | CLONE_PIDFD;
	args.pidfd = (uint64_t)(uintptr_t)&pidfd;
	pid = raw_syscall2(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return pid;
	if (pid > 0) {
		say(channel, NSNET_STEP_MOVED, 0, (int)pid, pidfd);
		child_exit(0);
	}
	wait_for_go(job, channel);
	return 0;
}

NSNET_BARE static long open_proc(void)
{
	struct statfs fs;
	long fd = raw_syscall4(SYS_openat, AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0), err;

	if (fd < 0)
		return fd;
	err = raw_syscall2(SYS_fstatfs, fd, &fs);
	if (err < 0)
		return err;
	return fs.f_type == PROC_SUPER_MAGIC ? fd : -EXDEV;	/* what is written elsewhere would bind nobody */
}

/* All of it at once, as the kernel takes a map. */
NSNET_BARE static long write_text(long fd, const char *text)
{
	size_t len = length(text);
	long written = raw_syscall3(SYS_write, fd, text, len);

	if (written < 0)
		return written;
	return (size_t)written == len ? 0 : -EIO;
}

NSNET_BARE static long write_file(int dir, const char *path, const char *text)
{
	long fd = raw_syscall4(SYS_openat, dir, path, O_WRONLY | O_CLOEXEC, 0), err;

	if (fd < 0)
		return fd;
	err = write_text(fd, text);
	raw_syscall1(SYS_close, fd);
	return err;
}

/* `proc`: as it was before we joined anything. /proc/self belongs to us only while we may be looked into; who may, has power over
 * the namespace that we joined, and finds nothing here but the command's arguments (spawn.c sees to that). */
NSNET_BARE static long write_own_maps(const struct nsnet_spawn *job, int proc, int *step)
{
	long err;

	*step = NSNET_STEP_PROC;
	err = raw_prctl(PR_SET_DUMPABLE, 1, 0);
	if (err < 0)
		return err;
	*step = NSNET_STEP_SETGROUPS_DENY;	/* without it the kernel refuses an unprivileged gid_map */
	err = write_file(proc, "self/setgroups", "deny");
	if (err < 0)
		return err;
	*step = NSNET_STEP_UID_MAP;
	err = write_file(proc, "self/uid_map", job->uid_map);
	if (err < 0)
		return err;
	*step = NSNET_STEP_GID_MAP;
	err = write_file(proc, "self/gid_map", job->gid_map);
	if (err < 0)
		return err;
	*step = NSNET_STEP_PROC;
	return hide();
}

/* A slot's own, to be written when it is known. It belongs to us only while we may be looked into: see above. Other than an image,
 * a copy of the parent's memory is not to be seen for that. */
NSNET_BARE static long open_score(const struct nsnet_spawn *job, int proc)
{
	long is_hidden = !raw_prctl(PR_GET_DUMPABLE, 0, 0), fd, err = 0;

	if (is_hidden && job->image_fd < 0)
		return -EACCES;
	if (is_hidden)
		err = raw_prctl(PR_SET_DUMPABLE, 1, 0);
	if (err < 0)
		return err;
	fd = raw_syscall4(SYS_openat, proc, "self/oom_score_adj", O_WRONLY | O_CLOEXEC, 0);
	err = is_hidden ? hide() : 0;
	return err < 0 ? err : fd;
}

NSNET_BARE static long set_loopback_up(int socket)
{
	struct ifreq request;
	long err;

	zero(&request, sizeof(request));
	request.ifr_name[0] = 'l';
	request.ifr_name[1] = 'o';
	err = raw_syscall3(SYS_ioctl, socket, SIOCGIFFLAGS, &request);
	if (err < 0)
		return err;
	request.ifr_flags |= IFF_UP;
	return raw_syscall3(SYS_ioctl, socket, SIOCSIFFLAGS, &request);
}

/* --- sysctls ------------------------------------------------------------------------------------------------------- */

/* Read to `room`, or written; also in a thread that visits (visit.c). It is all done here, with nothing left to do through the
 * descriptor elsewhere: ping_group_range looks at the user namespace of whoever reads or writes, not of whoever opened, and in
 * older kernels there are files that look at the network namespace so. Bytes read, 0, or -errno. */
NSNET_BARE long child_sysctl(const struct nsnet_sysctl *row, char *room)
{
	int access = row->value ? O_WRONLY : O_RDONLY;
	struct statfs fs;
	long fd, result;

	fd = raw_syscall4(SYS_openat, AT_FDCWD, row->path, access | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	result = raw_syscall2(SYS_fstatfs, fd, &fs);
	if (result == 0 && fs.f_type != PROC_SUPER_MAGIC) {
		result = -EXDEV;		/* something is mounted over it */
	} else if (result == 0 && row->value) {
		size_t len = length(row->value);

		result = raw_syscall3(SYS_write, fd, row->value, len);	/* at once: the kernel takes no rest of a value */
		if (result >= 0)
			result = (size_t)result == len ? 0 : -EIO;
	} else if (result == 0) {
		result = raw_syscall3(SYS_read, fd, room, row->size);
		if (result >= 0 && (size_t)result == row->size)
			result = -EOVERFLOW;
	}
	raw_syscall1(SYS_close, fd);
	return result;
}

/* What became of one of them, and the bytes read. */
NSNET_BARE static long tell_result(int channel, int64_t result, char *room)
{
	struct iovec parts[2];
	struct msghdr message;

	parts[0].iov_base = &result;
	parts[0].iov_len = sizeof(result);
	parts[1].iov_base = room;
	parts[1].iov_len = result > 0 ? (size_t)result : 0;
	zero(&message, sizeof(message));
	message.msg_iov = parts;
	message.msg_iovlen = 2;
	return raw_syscall3(SYS_sendmsg, channel, &message, MSG_NOSIGNAL);
}

NSNET_BARE static void do_sysctls(const struct nsnet_spawn *job, int channel)
{
	for (size_t i = 0; i < job->n_sysctls; i++) {
		const struct nsnet_sysctl *row = &job->sysctls[i];
		long room = 0, result;

		if (row->size)		/* of the kernel: there is none on a thread's small stack */
			room = raw_syscall6(SYS_mmap, 0, row->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		result = room < 0 && room > -4096 ? room : child_sysctl(row, (char *)room);
		wait_for_parent(channel, job->parent_fd, POLLOUT);
		if (tell_result(channel, result, (char *)room) < 0)
			child_exit(127);
		if (row->value && result < 0)
			return;
		raw_syscall2(SYS_munmap, room, row->size);	/* EINVAL where there was none */
	}
}

/* --- further network namespaces ------------------------------------------------------------------------------------ */

/* Each lives on in the socket that is handed up. */
NSNET_BARE static void make_more(const struct nsnet_spawn *job, int channel)
{
	for (size_t i = 0; i < job->more_netns; i++) {
		long err = raw_syscall1(SYS_unshare, CLONE_NEWNET), socket;

		if (err < 0)
			give_up(channel, NSNET_STEP_UNSHARE, err);
		socket = raw_syscall3(SYS_socket, job->socket_family, job->socket_type | SOCK_CLOEXEC, job->socket_protocol);
		if (socket < 0)
			give_up(channel, NSNET_STEP_SOCKET, socket);
		wait_for_parent(channel, job->parent_fd, POLLOUT);
		err = report(channel, NSNET_STEP_READY, 0, (int)socket);
		if (err < 0)
			give_up(channel, NSNET_STEP_HANDOVER, err);
		raw_syscall1(SYS_close, socket);
	}
}

/* --- what the command gets ---------------------------------------------------------------------------------------- */

NSNET_BARE static long set_mounts(const struct nsnet_spawn *job, int *step)
{
	long err = 0;

	*step = NSNET_STEP_MOUNTS;
	if (job->private_mounts)
		err = raw_syscall5(SYS_mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0);
	if (err < 0 || !job->mount_proc)
		return err;
	*step = NSNET_STEP_MOUNT_PROC;
	return raw_syscall5(SYS_mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
}

NSNET_BARE static long become(const struct nsnet_command *command, int *step)
{
	struct powers kept;
	long err;

	*step = NSNET_STEP_SETGROUPS;
	err = command->set_groups ? raw_syscall2(SYS_setgroups, command->n_groups, command->groups) : 0;
	if (err < 0)
		return err;
	if (!command->set_ids)
		return 0;
	/* Keep the permitted set over setresuid to a uid that is not root; set_capabilities narrows it. */
	*step = NSNET_STEP_CAPABILITIES;
	err = raw_prctl(PR_SET_KEEPCAPS, 1, 0);
	if (err < 0)
		return err;
	*step = NSNET_STEP_SETGID;
	err = raw_syscall3(SYS_setresgid, command->gid, command->gid, command->gid);
	if (err < 0)
		return err;
	*step = NSNET_STEP_SETUID;
	err = raw_syscall3(SYS_setresuid, command->uid, command->uid, command->uid);
	if (err < 0)
		return err;
	*step = NSNET_STEP_CAPABILITIES;	/* what was kept is not effective any more */
	err = child_capabilities(&kept);
	if (err == 0)
		err = capset(kept.permitted, kept.permitted, 0);
	return err < 0 ? err : raw_prctl(PR_SET_KEEPCAPS, 0, 0);
}

/* Exactly `wanted`, in all five sets. The bounding set has no "set" call: drop until the kernel knows no more. */
NSNET_BARE static long set_capabilities(uint64_t wanted, int drop_bounding)
{
	long err;

	for (int cap = 0; drop_bounding && cap <= LAST_CAPABILITY; cap++) {
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
	err = capset(wanted, wanted, wanted);
	if (err < 0)
		return err;
	return raise_ambient(wanted);
}

/* The parent may have ended before the death signal was armed: then nobody would send it. */
NSNET_BARE static long arm_death_signal(int signal, int channel)
{
	char ignored;
	long err = raw_prctl(PR_SET_PDEATHSIG, signal, 0);

	if (err < 0)
		return err;
	if (raw_syscall6(SYS_recvfrom, channel, RAW_ARG(&ignored), 1, MSG_DONTWAIT | MSG_PEEK, 0, 0) == 0)
		child_exit(127);
	return 0;
}

NSNET_BARE static long set_disposition(int signal, void (*handler)(int))
{
	struct kernel_sigaction action;

	zero(&action, sizeof(action));
	action.handler = handler;
	return raw_syscall4(SYS_rt_sigaction, signal, &action, 0, sizeof(action.mask));
}

/* What the parent ignores, it ignores itself. */
NSNET_BARE static long default_signals(void)
{
	for (int signal = 1; signal <= LAST_SIGNAL; signal++) {
		long err = signal == SIGKILL || signal == SIGSTOP ? 0 : set_disposition(signal, 0);

		if (err < 0)
			return err;
	}
	return 0;
}

NSNET_BARE static long unblock_signals(void)
{
	uint64_t none = 0;

	return raw_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof(none));
}

/* A slot has been there for long, and perhaps in the parent's process group: a Ctrl-C of then is not for a command of now. */
NSNET_BARE static long forget_signals(void)
{
	uint64_t pending;
	long err = raw_syscall2(SYS_rt_sigpending, &pending, sizeof(pending));

	for (int signal = 1; err == 0 && pending && signal <= LAST_SIGNAL; signal++) {
		if (!(pending >> (signal - 1) & 1) || signal == SIGKILL || signal == SIGSTOP)
			continue;
		err = set_disposition(signal, SIG_IGN);		/* the kernel drops what is pending */
		if (err == 0)
			err = set_disposition(signal, 0);
	}
	return err;
}

/* What a slot is to run. Its descriptors are put in their places: until now it had none but its own. `score`: its oom_score_adj. */
NSNET_BARE static struct nsnet_command *receive_command(struct nsnet_spawn *job, int *channel, long score)
{
	struct nsnet_command *command;
	struct packed *packed;
	const int *fds;
	struct own own;
	long err;

	own.fds[0] = channel;
	own.fds[1] = &job->parent_fd;
	own.count = job->parent_fd >= 0 ? 2 : 1;
	wait_for_parent(*channel, job->parent_fd, POLLIN);
	err = forget_signals();
	if (err < 0)
		give_up(*channel, NSNET_STEP_SIGNALS, err);
	err = child_receive(*channel, job->parent_fd, COMMAND_MAGIC, sizeof(*command), &packed);
	if (err < 0)
		give_up(*channel, err == -EMFILE ? NSNET_STEP_DESCRIPTORS : NSNET_STEP_HANDOVER, err);
	command = &((struct packed_command *)packed)->command;
	child_unpack(packed, command);
	fds = (const int *)(void *)((char *)packed + packed->total);
	if (command->n_moves + (command->cwd_fd >= 0) != packed->n_fds)
		give_up(*channel, NSNET_STEP_HANDOVER, -EPROTO);
	for (size_t i = 0; i < command->n_moves; i++)
		command->moves[i].source = fds[i];
	err = command->oom_score_adj && score >= 0 ? write_text(score, command->oom_score_adj) : score;
	if (command->oom_score_adj && err < 0)
		give_up(*channel, NSNET_STEP_OOM_SCORE_ADJ, err);
	err = command->cwd_fd >= 0 ? raw_syscall1(SYS_fchdir, fds[command->n_moves]) : 0;
	if (err < 0)
		give_up(*channel, NSNET_STEP_CHDIR, err);
	err = arrange_descriptors(command, &own);
	if (err == 0 && job->parent_fd >= 0)
		err = raw_syscall3(SYS_fcntl, job->parent_fd, F_SETFD, FD_CLOEXEC);
	if (err < 0)
		give_up(*channel, NSNET_STEP_DESCRIPTORS, err);
	if (command->waits) {			/* for limits, which only the parent may set */
		err = report(*channel, NSNET_STEP_READY, 0, -1);
		if (err < 0)
			child_exit(127);
		wait_for_go(job, *channel);
	}
	return command;
}

/* As execvp: a candidate that exists but may not be run is remembered; one that does not exist is passed over. */
NSNET_BARE static long try_execve(const struct nsnet_command *command)
{
	long result = -ENOENT;

	for (size_t i = 0; i < command->n_paths; i++) {
		long err = raw_syscall3(SYS_execve, command->paths[i], command->argv, command->envp);

		if (err == -EACCES)
			result = err;
		else if (err != -ENOENT && err != -ENOTDIR)
			return err;
	}
	return result;
}

/* The order of steps. */
__attribute__((noreturn))
NSNET_BARE static void child_main(struct nsnet_spawn *job, int channel)
{
	const struct nsnet_command *command = &job->command;
	uint64_t flags = job->new_flags, early;
	int step = NSNET_STEP_NONE, socket = -1, proc = -1;
	long err, score = -1;

#define TRY(name, call) do { err = (call); if (err < 0) give_up(channel, (name), err); } while (0)

	if (job->parent_fd >= 0)
		TRY(NSNET_STEP_DESCRIPTORS, raw_syscall3(SYS_fcntl, job->parent_fd, F_SETFD, FD_CLOEXEC));
	if (job->oom_score_adj || job->uid_map || job->slot) {
		proc = (int)open_proc();
		if (proc < 0 && (job->oom_score_adj || job->uid_map))
			give_up(channel, NSNET_STEP_PROC, proc);
	}
	if (job->slot && !job->moves_pid)	/* while it belongs to us; most commands have no use for it */
		score = proc < 0 ? proc : open_score(job, proc);
	if (job->oom_score_adj)			/* with the caller's power, which may be needed */
		TRY(NSNET_STEP_OOM_SCORE_ADJ, write_file(proc, "self/oom_score_adj", job->oom_score_adj));
	TRY(NSNET_STEP_SETNS, join_namespaces(job));
	early = flags & (CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWTIME);
	if (flags & CLONE_NEWUSER)
		TRY(NSNET_STEP_SETGROUPS, drop_groups());
	if (job->moves_pid)
		TRY(NSNET_STEP_CLONE3, clone_again(job, early, channel));
	else if (early)
		TRY(NSNET_STEP_UNSHARE, raw_syscall1(SYS_unshare, early));
	if (flags & CLONE_NEWUSER && job->uid_map) {
		err = write_own_maps(job, proc, &step);
		if (err < 0)
			give_up(channel, step, err);
	} else if (flags & CLONE_NEWUSER) {		/* now the parent writes the maps, and we go on */
		TRY(NSNET_STEP_HANDOVER, report(channel, NSNET_STEP_USERNS, 0, -1));
	}
	if (job->slot && job->moves_pid)	/* that of its first self is of no use */
		score = proc < 0 ? proc : open_score(job, proc);
	if (proc >= 0)
		raw_syscall1(SYS_close, proc);
	if (flags & ~early)
		TRY(NSNET_STEP_UNSHARE, raw_syscall1(SYS_unshare, flags & ~early));
	if (job->socket_family >= 0) {
		TRY(NSNET_STEP_SOCKET, raw_syscall3(SYS_socket, job->socket_family, job->socket_type | SOCK_CLOEXEC,
						    job->socket_protocol));
		socket = (int)err;
	}
	if (job->loopback)
		TRY(NSNET_STEP_LOOPBACK, set_loopback_up(socket));
	if (job->hostname)
		TRY(NSNET_STEP_HOSTNAME, raw_syscall2(SYS_sethostname, job->hostname, length(job->hostname)));
	if (job->slot)				/* what does not depend on its command */
		TRY(NSNET_STEP_SIGNALS, default_signals());
	err = report(channel, NSNET_STEP_READY, 0, socket);
	if (err < 0)
		child_exit(127);
	if (socket >= 0)
		raw_syscall1(SYS_close, socket);
	do_sysctls(job, channel);
	make_more(job, channel);

	if (job->slot)
		command = receive_command(job, &channel, score);
	else
		wait_for_go(job, channel);

	err = set_mounts(job, &step);			/* now that there are maps: a file system belongs to somebody */
	if (err < 0)
		give_up(channel, step, err);
	if (command->new_session)
		TRY(NSNET_STEP_SETSID, raw_syscall0(SYS_setsid));
	if (command->new_keyring) {			/* before become(): charged to the caller, whose quota is larger than nobody's */
		err = raw_syscall2(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
		/* A kernel without keys has none to leak, and a filter that hides them from us hides them from the command. */
		if (err < 0 && err != -ENOSYS && err != -EPERM)
			give_up(channel, NSNET_STEP_KEYRING, err);
	}
	err = become(command, &step);
	if (err < 0)
		give_up(channel, step, err);
	TRY(NSNET_STEP_PROC, hide());			/* from the others of that id */
	if (command->umask >= 0)
		TRY(NSNET_STEP_UMASK, raw_syscall1(SYS_umask, command->umask));
	if (command->cwd)
		TRY(NSNET_STEP_CHDIR, raw_syscall1(SYS_chdir, command->cwd));
	TRY(NSNET_STEP_CAPABILITIES, set_capabilities(command->capabilities, command->drop_bounding));
	if (command->no_new_privs)
		TRY(NSNET_STEP_NO_NEW_PRIVS, raw_prctl(PR_SET_NO_NEW_PRIVS, 1, 0));
	if (command->pdeathsig)
		TRY(NSNET_STEP_PDEATHSIG, arm_death_signal(command->pdeathsig, channel));
	/* Whoever ends without having said this has not come as far as execve. */
	TRY(NSNET_STEP_HANDOVER, report(channel, NSNET_STEP_EXECVE, 0, -1));
	if (!job->slot)
		TRY(NSNET_STEP_SIGNALS, default_signals());
	TRY(NSNET_STEP_SIGNALS, unblock_signals());
	give_up(channel, NSNET_STEP_EXECVE, try_execve(command));
#undef TRY
}

/* --- how it begins ------------------------------------------------------------------------------------------------ */

/* A descriptor that tells when the parent ends. By now it may have, and somebody else be our parent. One that has unshared its
 * pid namespace is not to be seen from here. */
NSNET_BARE static long watch_parent(struct nsnet_spawn *job)
{
	long fd;

	job->parent_fd = -1;
	if (raw_syscall0(SYS_getppid) == 0)
		return 0;
	fd = raw_syscall2(SYS_pidfd_open, job->owner, 0);
	job->parent_fd = (int)fd;
	return fd < 0 ? fd : raw_syscall0(SYS_getppid) == job->owner ? 0 : -ESRCH;
}

/* In a copy of the parent's memory. */
NSNET_BARE void child_of_memory(struct birth *birth)
{
	struct nsnet_spawn *job = birth->job;
	struct own own;
	long err = make_channel(birth->boot);
	int channel = (int)err;

	if (err < 0 || watch_parent(job) < 0)
		child_exit(127);
	job->image_fd = -1;			/* we are none */
	own_descriptors(job, &own, &channel, NULL);
	err = arrange_descriptors(&job->command, &own);
	if (err < 0)
		give_up(channel, NSNET_STEP_DESCRIPTORS, err);
	child_main(job, channel);
}

/* An image has to have the capabilities of its caller: execve keeps them for root, and for others as ambient ones. */
NSNET_BARE static long carry_capabilities(struct nsnet_spawn *job)
{
	struct powers own;
	long err = child_capabilities(&own);

	if (err < 0)
		return err;
	job->permitted = own.permitted;
	job->effective = own.effective;
	if (!own.permitted)
		return 0;
	if (raw_syscall0(SYS_geteuid) == 0 && !(raw_prctl(PR_GET_SECUREBITS, 0, 0) & SECBIT_NOROOT)) {
		for (int cap = 0; cap <= LAST_CAPABILITY; cap++)	/* what root gets is cut to the bounding set */
			if (job->permitted >> cap & 1 && raw_prctl(PR_CAPBSET_READ, cap, 0) != 1)
				return -EPERM;
		return 0;
	}
	err = capset(job->effective, job->permitted, job->permitted);
	return err < 0 ? err : raise_ambient(job->permitted);
}

NSNET_BARE static void write_number(char *at, unsigned int number)
{
	unsigned int scale = 1;

	while (number / scale >= 10)
		scale *= 10;
	for (; scale; scale /= 10)
		*at++ = (char)('0' + number / scale % 10);
	*at = 0;
}

/* In the parent's own memory, while its thread waits: what is written to the job and the birth is there for it to read. */
NSNET_BARE void child_to_image(void *argument)
{
	struct birth *birth = argument;
	struct nsnet_spawn *job = birth->job;
	char variable[sizeof(IMAGE_VARIABLE) + 10];
	int channel, image = job->image_fd;
	struct own own;
	long err;

	birth->step = NSNET_STEP_HANDOVER;
	err = make_channel(birth->boot);
	if (err < 0)
		goto failed;
	channel = (int)err;
	err = watch_parent(job);
	if (err < 0)
		goto failed;
	birth->step = NSNET_STEP_DESCRIPTORS;
	own_descriptors(job, &own, &image, &channel);
	err = arrange_descriptors(&job->command, &own);
	if (err < 0)
		goto failed;
	birth->step = NSNET_STEP_IMAGE;
	err = carry_capabilities(job);
	if (err < 0)
		goto failed;
	for (size_t i = 0; i < sizeof(IMAGE_VARIABLE); i++)
		((volatile char *)variable)[i] = IMAGE_VARIABLE[i];
	write_number(variable + sizeof(IMAGE_VARIABLE) - 1, (unsigned int)channel);
	((char **)job->command.envp)[-1] = variable;
	if (job->stack_limit) {			/* if it may not, the parent hears of it later */
		uint64_t limits[2] = { job->stack_limit->soft, job->stack_limit->hard };

		raw_syscall4(SYS_prlimit64, 0, RLIMIT_STACK, limits, 0);
	}
	err = raw_syscall5(SYS_execveat, image, "", job->command.argv, job->command.envp - 1, AT_EMPTY_PATH);
	if (err == -E2BIG || err == -ENOMEM || err == -EAGAIN)
		birth->step = NSNET_STEP_EXECVE;	/* that of the command would not fare better */
failed:
	birth->error = err;
	child_exit(127);
}

/* In the image. What execve gave is cut to what the caller had. */
NSNET_BARE void child_of_image(struct nsnet_spawn *job, int channel)
{
	long err = capset(job->effective, job->permitted, job->permitted);

	if (err < 0)
		give_up(channel, NSNET_STEP_CAPABILITIES, err);
	child_main(job, channel);
}
