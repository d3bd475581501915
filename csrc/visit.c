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
 * Many new namespaces are made by a few threads, or by one child, each of which leaves one for the next: what holds a namespace
 * is the socket that was opened in it.
 *
 * Knows nothing of what the socket is for, nor what a sysctl means.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

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
static int send_child(const struct nsnet_visit *visit, size_t more_netns, struct nsnet_spawn *job)
{
	struct nsnet_ns_join joins[2];
	char *words[] = { NULL, NULL };		/* room for the one that nsnet_spawn puts in front */
	int err;

	*job = (struct nsnet_spawn){
		.image_fd = visit->image_fd, .cgroup_fd = -1, .joins = joins,
		.command = { .argv = words + 1, .envp = words + 1, .cwd_fd = -1, .umask = -1 },
		.uid_map = visit->uid_map, .gid_map = visit->gid_map,
		.socket_family = visit->family, .socket_type = visit->type, .socket_protocol = visit->protocol,
		.sysctls = visit->sysctls, .n_sysctls = visit->n_sysctls, .more_netns = more_netns,
		.pid = -1, .pidfd = -1, .channel = -1, .passed_fd = -1, .parent_fd = -1,
	};
	if (visit->userns_fd >= 0)
		joins[job->n_joins++] = (struct nsnet_ns_join){ .fd = visit->userns_fd, .type = CLONE_NEWUSER };
	if (visit->netns_fd >= 0)
		joins[job->n_joins++] = (struct nsnet_ns_join){ .fd = visit->netns_fd, .type = CLONE_NEWNET };
	job->new_flags = (visit->new_userns ? CLONE_NEWUSER : 0) | (visit->netns_fd < 0 ? CLONE_NEWNET : 0);
	err = nsnet_spawn(job);
	job->joins = NULL;
	job->command.argv = job->command.envp = NULL;
	return err;
}

/* The next report that it is ready: 0, with what was passed in the job; -EINTR: call again. */
static int receive_ready(struct nsnet_spawn *job, int *step)
{
	struct nsnet_report report = { .step = NSNET_STEP_HANDOVER };
	int err = nsnet_receive(job, &report);

	*step = NSNET_STEP_HANDOVER;
	if (err < 0)
		return err;
	if (err == 0)
		return -EPIPE;		/* it died without a word */
	if (report.step != NSNET_STEP_READY) {
		*step = report.step;
		return report.error ? -report.error : -EPROTO;
	}
	return job->socket_family >= 0 && job->passed_fd < 0 ? -EPROTO : 0;
}

static int take_passed(struct nsnet_spawn *job)
{
	int fd = job->passed_fd;

	job->passed_fd = -1;
	return fd;
}

static int visit_by_child(struct nsnet_visit *visit)
{
	struct nsnet_spawn job;
	int result = send_child(visit, 0, &job);

	visit->step = job.step;
	if (result < 0)
		goto out;
	do {
		result = receive_ready(&job, &visit->step);
	} while (result == -EINTR);
	if (result == 0 && visit->n_sysctls)
		result = receive_results(&job);
	if (result == 0 && visit->family >= 0)
		result = take_passed(&job);
out:
	while (nsnet_end(&job) == -EINTR)
		;
	return result;
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

/* --- many ----------------------------------------------------------------------------------------------------------- */

#define WAKE_EVERY 16		/* sockets: to wait for each takes longer than to make it */

static void wake(struct nsnet_visits *visits)
{
	raw_syscall3(SYS_futex, &visits->done, FUTEX_WAKE_PRIVATE, 1);
}

static void *crew_main(void *argument)
{
	struct nsnet_visits *visits = argument;
	struct nsnet_visit visit = visits->visit;
	size_t place;

	while (!__atomic_load_n(&visits->stop, __ATOMIC_RELAXED)) {
		int fd;
		uint32_t done;

		place = __atomic_fetch_add(&visits->begun, 1, __ATOMIC_RELAXED);
		if (place >= visits->count)
			break;
		fd = go_and_act(&visit);
		if (fd < 0) {
			if (!__atomic_exchange_n(&visits->failed, 1, __ATOMIC_ACQ_REL)) {
				visits->step = visit.step;
				__atomic_store_n(&visits->error, fd, __ATOMIC_RELEASE);
				__atomic_add_fetch(&visits->done, 1, __ATOMIC_RELEASE);
				wake(visits);
			}
			break;
		}
		__atomic_store_n(&visits->sockets[place], fd, __ATOMIC_RELEASE);
		done = __atomic_add_fetch(&visits->done, 1, __ATOMIC_RELEASE);
		if (done % WAKE_EVERY == 0 || done == visits->count)
			wake(visits);
	}
	return NULL;
}

static int begin_threads(struct nsnet_visits *visits)
{
	size_t wanted = visits->n_threads;
	uint64_t saved;
	int err = 0;

	visits->step = NSNET_STEP_THREAD;
	visits->n_threads = 0;
	visits->sockets = malloc(visits->count * sizeof(*visits->sockets));
	if (!visits->sockets)
		return -ENOMEM;
	memset(visits->sockets, -1, visits->count * sizeof(*visits->sockets));
	nsnet_block_signals(&saved);
	while (visits->n_threads < wanted) {
		pthread_t thread;

		err = pthread_create(&thread, NULL, crew_main, visits);
		if (err)
			break;
		visits->threads[visits->n_threads++] = (uintptr_t)thread;
	}
	nsnet_restore_signals(&saved);
	return visits->n_threads ? 0 : -err;	/* one can do it alone */
}

/* The next of them; -EINTR: call again. */
static int take_of_threads(struct nsnet_visits *visits)
{
	int *place = &visits->sockets[visits->taken];

	for (;;) {
		uint32_t done = __atomic_load_n(&visits->done, __ATOMIC_ACQUIRE);
		int fd = __atomic_load_n(place, __ATOMIC_ACQUIRE);
		int error = __atomic_load_n(&visits->error, __ATOMIC_ACQUIRE);

		if (fd >= 0) {
			*place = -1;
			return fd;
		}
		if (error)
			return error;
		if (raw_syscall4(SYS_futex, &visits->done, FUTEX_WAIT_PRIVATE, done, 0) == -EINTR)
			return -EINTR;
	}
}

static int take_of_child(struct nsnet_visits *visits)
{
	int err = receive_ready(&visits->child, &visits->step);

	return err < 0 ? err : take_passed(&visits->child);
}

/* Returns at once. Whatever it returns, nsnet_visits_drop() ends it. */
int nsnet_visits_begin(struct nsnet_visits *visits)
{
	int err;

	visits->owner = getpid();
	if (visits->visit.userns_fd < 0 && !visits->visit.new_userns)
		return begin_threads(visits);
	visits->n_threads = 0;
	err = send_child(&visits->visit, visits->count - 1, &visits->child);
	visits->step = visits->child.step;
	return err;
}

/* The next socket, the caller's from now on; -EINTR: call again; -ENOENT: there are no more. */
int nsnet_visits_take(struct nsnet_visits *visits)
{
	int fd;

	if (visits->taken == visits->count)
		return -ENOENT;
	fd = visits->n_threads ? take_of_threads(visits) : take_of_child(visits);
	if (fd >= 0)
		visits->taken++;
	return fd;
}

/* Stop making them, and close those that were not taken. May be called twice, and in a fork, which has no such threads. */
void nsnet_visits_drop(struct nsnet_visits *visits)
{
	if (!visits->owner)
		return;
	__atomic_store_n(&visits->stop, 1, __ATOMIC_RELAXED);
	for (size_t i = 0; i < visits->n_threads && visits->owner == getpid(); i++)
		pthread_join((pthread_t)visits->threads[i], NULL);
	if (visits->visit.userns_fd >= 0 || visits->visit.new_userns)
		nsnet_drop(&visits->child);
	for (size_t i = 0; visits->sockets && i < visits->count; i++)
		nsnet_close(&visits->sockets[i]);
	free(visits->sockets);
	visits->sockets = NULL;
	visits->taken = visits->count;
	visits->owner = 0;
}
