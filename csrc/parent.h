/*
 * What the parent's side shares: spawn.c has it, visit.c uses it. It may use the C library.
 */
#ifndef NSNET_PARENT_H
#define NSNET_PARENT_H

#include <stdint.h>

void nsnet_block_signals(uint64_t *saved);
void nsnet_restore_signals(const uint64_t *saved);
void nsnet_close(int *fd);

struct nsnet_spawn;
int nsnet_wait_for_report(struct nsnet_spawn *job);

#endif
