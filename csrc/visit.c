/*
 * A socket made inside another namespace, without going there.
 *
 * A namespace is a socket, not a place to be: the calling thread never moves. If our own user namespace has the say over
 * the target, a thread made for the purpose goes, opens the socket and ends; its descriptor is ours, since threads share
 * the table. If a user namespace must be entered or made first, a thread cannot do it (EINVAL), so a child goes and
 * passes the socket back. That child never shares our memory, and it is not dumpable while it is inside a foreign user
 * namespace, whose root could otherwise trace it and read the copy of our memory that it carries.
 *
 * Knows nothing of what the socket is for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "rawsys.h"

/* Shared by both travellers, so raw system calls only. Returns the socket or -errno. */
static int go_and_open(struct nsnet_visit *visit)
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

	traveller->result = go_and_open(traveller->visit);
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

__attribute__((noreturn))
static void child_main(struct nsnet_visit *visit, int channel)
{
	long result;

	if (visit->userns_fd >= 0) {
		visit->step = NSNET_STEP_SETNS;
		result = raw_syscall5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
		if (result < 0)
			goto failed;
		result = raw_syscall2(SYS_setns, visit->userns_fd, CLONE_NEWUSER);
		if (result < 0)
			goto failed;
	}
	if (visit->new_userns) {
		result = child_write_own_maps(visit->uid_map, visit->gid_map, &visit->step);
		if (result < 0)
			goto failed;
	}
	result = go_and_open(visit);
	if (result < 0)
		goto failed;
	child_report(channel, NSNET_STEP_READY, 0, (int)result);
	child_exit(0);
failed:
	child_report(channel, visit->step, (int)-result, -1);
	child_exit(1);
}

static void reap(int pidfd)
{
	siginfo_t info;

	/* ECHILD: the embedding program reaps everything. */
	while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0 && errno == EINTR)
		;
}

static int visit_by_child(struct nsnet_visit *visit)
{
	struct nsnet_report report = { .step = NSNET_STEP_HANDOVER };
	int ends[2], pidfd = -1, fd = -1, err;
	long pid;

	visit->step = NSNET_STEP_HANDOVER;
	err = nsnet_channel(ends);
	if (err < 0)
		return err;
	visit->step = NSNET_STEP_CLONE3;
	pid = nsnet_clone(visit->new_userns ? CLONE_NEWUSER : 0, -1, &pidfd);
	if (pid == 0)
		child_main(visit, ends[1]);
	nsnet_close(&ends[1]);
	if (pid < 0) {
		err = (int)pid;
		goto out;
	}
	visit->step = NSNET_STEP_HANDOVER;
	err = nsnet_receive_report(ends[0], &report, &fd);
	if (err == 0)
		err = -EPIPE;		/* it died without a word */
	else if (err > 0 && report.step != NSNET_STEP_READY) {
		visit->step = report.step;
		err = -report.error;
	} else if (err > 0 && fd < 0) {
		err = -EPROTO;
	}
	reap(pidfd);
out:
	nsnet_close(&pidfd);
	nsnet_close(&ends[0]);
	return err < 0 ? err : fd;
}

int nsnet_visit(struct nsnet_visit *visit)
{
	sigset_t saved;
	int result;

	nsnet_block_signals(&saved);
	if (visit->userns_fd < 0 && !visit->new_userns)
		result = visit_by_thread(visit);
	else
		result = visit_by_child(visit);
	nsnet_restore_signals(&saved);
	return result;
}
