/*
 * What a child of ours does between clone and execve, and how it is spoken with. Parent side (spawn.c, visit.c) and child
 * side (child.c, image.c) agree on this.
 */
#ifndef NSNET_CHILD_H
#define NSNET_CHILD_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "api.h"		/* once: it has no guard, since it has no preprocessor lines */

/* Code that runs without a C library behind it may not look for a canary either. Clang has it as an attribute only, gcc 10
 * only as an option (build.py gives that). */
#if defined(__has_attribute)
#if __has_attribute(no_stack_protector)
#define NSNET_BARE __attribute__((no_stack_protector))
#endif
#endif
#ifndef NSNET_BARE
#define NSNET_BARE
#endif

#define JOB_MAGIC 0x6e736e65u			/* and the size of the struct: a file that was replaced meanwhile is refused */
#define COMMAND_MAGIC 0x6e736e66u
#define IMAGE_VARIABLE "NSNET_IMAGE="		/* the first entry of an image's environment: the channel's number */
#define MOST_PACKED (64u << 20)			/* bytes; far beyond what execve takes */
#define MOST_FDS 253				/* in one message: SCM_MAX_FD, <net/scm.h> */

/* What the parent sends, in one message or several: this, a struct, and what its pointers point to; a pointer is an offset from
 * here. The descriptors that come with it, in the order in which they were sent, are put behind `total`. */
struct packed {
	uint32_t magic;
	uint32_t size;		/* of the struct */
	uint32_t total;		/* bytes in all, a multiple of 8 */
	uint32_t n_fds;
};

struct packed_job {
	struct packed head;
	struct nsnet_spawn job;
};

struct packed_command {
	struct packed head;
	struct nsnet_command command;
};

/* What the clone and the first lines of the child share. */
struct birth {
	struct nsnet_spawn *job;
	int boot;		/* where the child sends the parent's end of the channel */
	int step;
	long error;		/* of that step: the child is gone then */
};

/* Capabilities of a thread, bit n for capability n. */
struct powers {
	uint64_t permitted;
	uint64_t effective;
};

/* An offset in what was received becomes an address. */
#define PLACE(packed, field) ((field) = (field) ? (void *)((char *)(packed) + (uintptr_t)(field)) : 0)

/* Child side: raw system calls only. */
long child_capabilities(struct powers *powers);
long child_sysctl(const struct nsnet_sysctl *row, char *room);
long child_receive(int channel, int parent_fd, uint32_t magic, uint32_t size, struct packed **packed);
void child_unpack(struct packed *packed, struct nsnet_command *command);
__attribute__((noreturn)) void child_exit(int status);
__attribute__((noreturn)) void child_of_memory(struct birth *birth);
__attribute__((noreturn)) void child_to_image(void *birth);
__attribute__((noreturn)) void child_of_image(struct nsnet_spawn *job, int channel);

#endif
