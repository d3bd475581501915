/*
 * This module as a program: what a child executes instead of copying or sharing its parent's memory.
 *
 * The kernel maps the file and jumps to nsnet_image: no dynamic linker, no C library, nothing is relocated. All code that is
 * reached from here refers to itself relative to the program counter, makes raw system calls, and calls nothing outside of
 * child.c (the tests look at the symbols). What is to be done comes over the channel, whose number is the first entry of the
 * environment; arguments and environment are the command's own already, unless that comes later.
 *
 * Knows how a job is packed (spawn.c packs it). Refuses to do anything for whoever executes the file without a channel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/prctl.h>

#include "child.h"
#include "rawsys.h"

#ifdef RAW_HAS_IMAGE

__asm__(RAW_IMAGE_ENTRY);

__attribute__((noreturn))
NSNET_BARE static void refuse(void)
{
	static const char text[] = "nsnet: this file is a Python extension module, not a command\n";

	raw_syscall3(SYS_write, 2, text, sizeof(text) - 1);
	child_exit(126);
}

/* The channel's number, from "NSNET_IMAGE=7"; -1 if it is something else. */
NSNET_BARE static int channel_from(const char *variable)
{
	int number = 0;
	size_t i;

	for (i = 0; i < sizeof(IMAGE_VARIABLE) - 1; i++)
		if (!variable || variable[i] != IMAGE_VARIABLE[i])
			return -1;
	for (; variable[i] >= '0' && variable[i] <= '9' && number < 100000000; i++)
		number = 10 * number + (variable[i] - '0');
	return variable[i] ? -1 : number;
}

NSNET_BARE static struct nsnet_spawn *receive_job(int channel)
{
	struct packed *packed;
	struct nsnet_spawn *job;

	if (child_receive(channel, -1, JOB_MAGIC, sizeof(*job), &packed) < 0)
		child_exit(127);
	job = &((struct packed_job *)packed)->job;
	child_unpack(packed, &job->command);
	PLACE(packed, job->joins);
	PLACE(packed, job->uid_map);
	PLACE(packed, job->gid_map);
	PLACE(packed, job->hostname);
	PLACE(packed, job->oom_score_adj);
	PLACE(packed, job->sysctls);
	for (size_t i = 0; i < job->n_sysctls; i++) {
		PLACE(packed, job->sysctls[i].path);
		PLACE(packed, job->sysctls[i].value);
	}
	return job;
}

__attribute__((noreturn, used, visibility("hidden")))
NSNET_BARE void nsnet_image_main(char **stack)
{
	char **argv = stack + 1, **envp;
	struct nsnet_spawn *job;
	int channel;

	for (envp = argv; *envp; envp++)
		;
	envp++;
	channel = channel_from(*envp);
	if (channel < 0 || raw_syscall3(SYS_fcntl, channel, F_SETFD, FD_CLOEXEC) < 0)
		refuse();
	raw_syscall5(SYS_prctl, PR_SET_NAME, "nsnet", 0, 0, 0);
	job = receive_job(channel);
	job->command.argv = argv;
	job->command.envp = envp + 1;
	child_of_image(job, channel);
}

#endif
