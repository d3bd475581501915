/*
 * A socket made, or sysctls read and written, inside another namespace, without going there.
 *
 * A namespace is a socket, not a place to be: the calling thread never moves. If our own user namespace has the say over
 * the target, a thread made for the purpose goes, does what there is to do and ends; its descriptor is ours, since threads share
 * the table, and so is its memory. If a user namespace must be entered or made first, a thread cannot do it (EINVAL), so a
 * child goes and passes the socket or the results back (spawn.c). That child does not share our memory there, and it is not
 * dumpable while it is inside a foreign user namespace, whose root could otherwise trace it and read the copy of our memory
 * that it may carry.
 *
 * Knows nothing of what the socket is for, nor what a sysctl means.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "child.h"
#include "parent.h"
#include "rawsys.h"

/* Where the calling thread is. Raw system calls: errno is the caller's. */
void nsnet_sysctls(struct nsnet_sysctl *rows, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		rows[i].result = child_sysctl(&rows[i], rows[i].room);
		if (rows[i].value && rows[i].result < 0)
			return;
	}
}

/* Returns the socket, 0 if there is to be none, or -errno. Raw system calls, as above. */
static int go_and_act(struct nsnet_visit *visit)
{
	long err;

	if (visit->netns_fd >= 0) {
		visit->step = NSNET_STEP_SETNS;
		err = raw_syscall2(SYS_setns, visit->netns_fd, CLONE_NEWNET);
	} else {
		visit->step = NSNET_STEP_UNSHARE;
		err = raw_syscall1(SYS_unshare, CLONE_NEWNET);
	}
	if (err < 0)
		return (int)err;
	nsnet_sysctls(visit->sysctls, visit->n_sysctls);
	if (visit->family < 0)
		return 0;
	visit->step = NSNET_STEP_SOCKET;
	return (int)raw_syscall3(SYS_socket, visit->family, visit->type | SOCK_CLOEXEC, visit->protocol);
}

struct traveller {
	struct nsnet_visit *visit;
	int result;
};

static void *thread_main(void *argument)
{
	struct traveller *traveller = argument;

	traveller->result = go_and_act(traveller->visit);
	return NULL;
}

static int visit_by_thread(struct nsnet_visit *visit)
{
	struct traveller traveller = { .visit = visit };
	pthread_t thread;
	int err;

	visit->step = NSNET_STEP_THREAD;
	err = pthread_create(&thread, NULL, thread_main, &traveller);	/* all signals blocked: it inherits that */
	if (err)
		return -err;
	pthread_join(thread, NULL);
	return traveller.result;
}

/* Who is inside a foreign user namespace is believed no more than a message can hold. */
static int receive_result(struct nsnet_spawn *job, struct nsnet_sysctl *row)
{
	struct iovec parts[] = {
		{ .iov_base = &row->result, .iov_len = sizeof(row->result) },
		{ .iov_base = row->room, .iov_len = row->value ? 0 : row->size },
	};
	ssize_t len;
	int err;

	do {
		err = nsnet_wait_for_report(job);
		len = err < 0 ? err : readv(job->channel, parts, 2);
		if (err == 0 && len < 0)
			len = -errno;
	} while (len == -EINTR);
	if (len < 0)
		return len == -ECONNRESET ? -EPIPE : (int)len;
	if (len == 0)
		return -EPIPE;		/* it died without a word */
	len -= (ssize_t)sizeof(row->result);
	return len == (row->result > 0 ? row->result : 0) ? 0 : -EPROTO;
}

static int receive_results(struct nsnet_spawn *job)
{
	for (size_t i = 0; i < job->n_sysctls; i++) {
		int err = receive_result(job, &job->sysctls[i]);

		if (err < 0)
			return err;
		if (job->sysctls[i].value && job->sysctls[i].result < 0)
			break;
	}
	return 0;
}

/* A child that goes no further than to be parked: it ends when the channel does. */
static int visit_by_child(struct nsnet_visit *visit)
{
	struct nsnet_ns_join joins[2];
	struct nsnet_report report = { .step = NSNET_STEP_HANDOVER };
	char *words[] = { NULL, NULL };		/* room for the one that nsnet_spawn puts in front */
	struct nsnet_spawn job = {
		.image_fd = visit->image_fd, .cgroup_fd = -1, .joins = joins,
		.command = { .argv = words + 1, .envp = words + 1, .cwd_fd = -1, .umask = -1 },
		.uid_map = visit->uid_map, .gid_map = visit->gid_map,
		.socket_family = visit->family, .socket_type = visit->type, .socket_protocol = visit->protocol,
		.sysctls = visit->sysctls, .n_sysctls = visit->n_sysctls,
		.pid = -1, .pidfd = -1, .channel = -1, .passed_fd = -1, .parent_fd = -1,
	};
	int fd = -1, err;

	if (visit->userns_fd >= 0)
		joins[job.n_joins++] = (struct nsnet_ns_join){ .fd = visit->userns_fd, .type = CLONE_NEWUSER };
	if (visit->netns_fd >= 0)
		joins[job.n_joins++] = (struct nsnet_ns_join){ .fd = visit->netns_fd, .type = CLONE_NEWNET };
	job.new_flags = (visit->new_userns ? CLONE_NEWUSER : 0) | (visit->netns_fd < 0 ? CLONE_NEWNET : 0);
	err = nsnet_spawn(&job);
	visit->step = job.step;
	if (err < 0)
		goto out;
	do {
		err = nsnet_receive(&job, &report);
	} while (err == -EINTR);
	if (err == 0) {
		err = -EPIPE;		/* it died without a word */
	} else if (err > 0 && report.step != NSNET_STEP_READY) {
		visit->step = report.step;
		err = report.error ? -report.error : -EPROTO;
	} else if (err > 0 && visit->family >= 0 && job.passed_fd < 0) {
		err = -EPROTO;
	} else if (err > 0) {
		err = receive_results(&job);
	}
	if (err == 0 && visit->family >= 0) {
		fd = job.passed_fd;
		job.passed_fd = -1;
	}
out:
	while (nsnet_end(&job) == -EINTR)
		;
	return err < 0 ? err : visit->family < 0 ? 0 : fd;
}

int nsnet_visit(struct nsnet_visit *visit)
{
	uint64_t saved;
	int result;

	if (visit->userns_fd >= 0 || visit->new_userns)
		return visit_by_child(visit);
	nsnet_block_signals(&saved);
	result = visit_by_thread(visit);
	nsnet_restore_signals(&saved);
	return result;
}
