/*
 * Bind mounts of namespace files, which Python has no calls for. Knows mount(2) and umount2(2); which file, which directory and
 * whether it is safe is pins.py's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <sys/mount.h>

#include "api.h"

int nsnet_mount(const char *source, const char *target, unsigned long flags)
{
	return mount(source, target, "none", flags, NULL) < 0 ? -errno : 0;
}

int nsnet_umount(const char *target)
{
	return umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}
