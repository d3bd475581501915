/*
 * This module as a program: what a child executes instead of copying or sharing its parent's memory.
 *
 * The kernel maps the file and jumps to nsnet_image: no dynamic linker, no C library, nothing is relocated. All code that is
 * reached from here refers to itself relative to the program counter, makes raw system calls, and calls nothing outside of
 * child.c (the tests look at the symbols). What is to be done comes as one message over the channel, whose number is the first
 * entry of the environment; arguments and environment are the command's own already.
 *
 * Knows how a job is packed (spawn.c packs it). Refuses to do anything for whoever executes the file without a channel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

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

NSNET_BARE static struct packed_job *receive_job(int channel)
{
	struct packed_job *packed;
	long len, got;

	do {
		len = raw_syscall6(SYS_recvfrom, channel, 0, 0, MSG_PEEK | MSG_TRUNC, 0, 0);
	} while (len == -EINTR);
	if (len < (long)sizeof(*packed))
		child_exit(127);
	got = raw_syscall6(SYS_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (got < 0 && got > -4096)
		child_exit(127);
	packed = (struct packed_job *)got;
	got = raw_syscall6(SYS_recvfrom, channel, RAW_ARG(packed), len, 0, 0, 0);
	if (got != len || packed->magic != IMAGE_MAGIC || packed->size != sizeof(*packed))
		child_exit(127);
	return packed;
}

/* An offset in the message becomes an address. */
#define PLACE(field) ((field) = (field) ? (void *)((char *)packed + (uintptr_t)(field)) : 0)

NSNET_BARE static struct nsnet_spawn *unpack(struct packed_job *packed)
{
	struct nsnet_spawn *job = &packed->job;

	PLACE(job->joins);
	PLACE(job->uid_map);
	PLACE(job->gid_map);
	PLACE(job->hostname);
	PLACE(job->paths);
	PLACE(job->cwd);
	PLACE(job->oom_score_adj);
	PLACE(job->groups);
	PLACE(job->sysctls);
	for (size_t i = 0; i < job->n_paths; i++)
		PLACE(((const char **)job->paths)[i]);
	for (size_t i = 0; i < job->n_sysctls; i++) {
		PLACE(job->sysctls[i].path);
		PLACE(job->sysctls[i].value);
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
	job = unpack(receive_job(channel));
	job->argv = argv;
	job->envp = envp + 1;
	child_of_image(job, channel);
}

#endif
