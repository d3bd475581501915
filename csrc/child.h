/*
 * What every child of ours does between clone and its end: report a step, hand a descriptor up, write its own id maps,
 * close what it was not meant to have. Both spawn.c and visit.c make such children.
 */
#ifndef NSNET_CHILD_H
#define NSNET_CHILD_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "api.h"		/* once: it has no guard, since it has no preprocessor lines */

/* Parent side: may use the C library. */
int nsnet_channel(int ends[2]);
long nsnet_clone(uint64_t flags, int cgroup_fd, int *pidfd);
void nsnet_block_signals(sigset_t *saved);
void nsnet_restore_signals(const sigset_t *saved);
void nsnet_close(int *fd);

/* Child side: raw system calls only. */
int child_report(int channel, int step, int error, int fd);
int child_write_own_maps(const char *uid_map, const char *gid_map, int *step);
__attribute__((noreturn)) void child_exit(int status);

#endif
