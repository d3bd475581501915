/*
 * The floor of launching: what the kernel takes from the call until a command runs, and until it has been waited for.
 *
 * For every line "new" on standard input: a child that shares this program's memory until its execve, in new user and
 * network namespaces, its id maps written by itself, and /bin/true in its place. The clone returns when that has
 * happened; then the child is waited for. For "plain" there are no namespaces. Each is answered by one line,
 * "launched=nanoseconds ended=nanoseconds". "show new" and "show plain" execute what stands in the program's arguments
 * instead, whose output is the answer, with an empty line behind it.
 *
 * It is a small program, for its launch does not depend on its size. It refuses to know nsnet (nothing is shared with
 * csrc/), to be safe for a program with threads, and to give the command anything but namespaces: no capability is
 * dropped, no descriptor is closed, no link is set up, and nobody keeps a socket inside.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "floor.h"

#define STACK_BYTES 65536

struct launch {
	int flags;		/* CLONE_NEW* */
	char *const *argv;
	const char *failed;	/* written by the child, whose memory this is */
	int error;
};

static char uid_map[32], gid_map[32];

/* --- the child: the parent waits in its clone and sees all that is written here ---------------------------------- */

static int give_up(struct launch *launch, const char *step)
{
	launch->failed = step;
	launch->error = errno;
	_exit(127);
}

static void write_text(struct launch *launch, const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		give_up(launch, path);
	close(fd);
}

static int child(void *argument)
{
	struct launch *launch = argument;

	if (launch->flags & CLONE_NEWUSER) {
		write_text(launch, "/proc/self/setgroups", "deny");
		write_text(launch, "/proc/self/uid_map", uid_map);
		write_text(launch, "/proc/self/gid_map", gid_map);
	}
	execve(launch->argv[0], launch->argv, environ);
	return give_up(launch, "execve");
}

/* --- the parent ------------------------------------------------------------------------------------------------- */

static pid_t begin(struct launch *launch)
{
	static char stack[STACK_BYTES] __attribute__((aligned(16)));
	pid_t pid = clone(child, stack + sizeof(stack), launch->flags | CLONE_VM | CLONE_VFORK | SIGCHLD, launch);

	if (pid < 0)
		die("clone");
	if (launch->failed) {
		errno = launch->error;
		die(launch->failed);
	}
	return pid;
}

static void finish(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) < 0)
		die("waitpid");
	if (status) {
		fprintf(stderr, "the command ended with status %d\n", status);
		exit(1);
	}
}

static void time_it(struct launch launch)
{
	struct laps laps;
	pid_t pid;

	start(&laps);
	pid = begin(&launch);
	lap(&laps, "launched");
	finish(pid);
	lap(&laps, "ended");
	puts(laps.line);
}

static void show(struct launch launch, char *const *argv)
{
	launch.argv = argv;
	finish(begin(&launch));
	putchar('\n');
}

int main(int argc, char **argv)
{
	static char *const command[] = { "/bin/true", NULL };
	static const char before[] = "show ";
	const size_t len = sizeof(before) - 1;
	char line[32];

	(void)argc;
	snprintf(uid_map, sizeof(uid_map), "0 %u 1\n", geteuid());
	snprintf(gid_map, sizeof(gid_map), "0 %u 1\n", getegid());
	while (fgets(line, sizeof(line), stdin)) {
		int showing = strncmp(line, before, len) == 0;
		const char *where = showing ? line + len : line;
		struct launch launch = { .argv = command };

		if (strcmp(where, "new\n") == 0)
			launch.flags = CLONE_NEWUSER | CLONE_NEWNET;
		if (showing)
			show(launch, argv + 1);
		else
			time_it(launch);
		fflush(stdout);
	}
	return 0;
}
