/*
 * What the parent's side shares: spawn.c has it, visit.c uses it. It may use the C library.
 */
#ifndef NSNET_PARENT_H
#define NSNET_PARENT_H

#include <signal.h>

void nsnet_block_signals(sigset_t *saved);
void nsnet_restore_signals(const sigset_t *saved);
void nsnet_close(int *fd);
void nsnet_reap(int *pidfd);		/* waits for its end, takes its status if nobody else did, closes */

#endif
