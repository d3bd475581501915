/*
 * What floors are made of: a clock, rtnetlink messages, a descriptor passed on.
 *
 * For programs with one thread that give up at the first error. Knows how messages are laid out and acknowledged;
 * refuses to know which ones are sent. Buffers have a fixed size, and a message that does not fit aborts.
 */
#ifndef FLOOR_H
#define FLOOR_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static inline void die(const char *step)
{
	fprintf(stderr, "%s: %s\n", step, strerror(errno));
	exit(1);
}

/* --- time ------------------------------------------------------------------------------------------------------- */

struct laps {
	int64_t last;
	char line[512];
};

static inline int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline void start(struct laps *laps)
{
	laps->line[0] = 0;
	laps->last = now();
}

/* What has passed since *at, which is now. */
static inline int64_t since(int64_t *at)
{
	int64_t before = *at;

	*at = now();
	return *at - before;
}

static inline void say(struct laps *laps, const char *step, int64_t taken)
{
	size_t len = strlen(laps->line);

	snprintf(laps->line + len, sizeof(laps->line) - len, "%s%s=%lld", len ? " " : "", step, (long long)taken);
}

static inline void lap(struct laps *laps, const char *step)
{
	say(laps, step, now() - laps->last);
	laps->last = now();		/* what the line cost is nobody's */
}

/* --- rtnetlink -------------------------------------------------------------------------------------------------- */

#ifndef BATCH_BYTES
#define BATCH_BYTES 2048
#endif

struct batch {
	unsigned char bytes[BATCH_BYTES];
	size_t len;
	struct nlmsghdr *last;
};

static inline void *reserve(struct batch *batch, size_t len)
{
	void *room = batch->bytes + batch->len;

	if (len > sizeof(batch->bytes) - batch->len)
		abort();
	memset(room, 0, NLMSG_ALIGN(len));
	batch->len += NLMSG_ALIGN(len);
	if (batch->last)
		batch->last->nlmsg_len = batch->bytes + batch->len - (unsigned char *)batch->last;
	return room;
}

/* Begin a message and return its fixed header. */
static inline void *message(struct batch *batch, int type, int flags, size_t fixed)
{
	static uint32_t seq;
	struct nlmsghdr *header;

	batch->last = NULL;
	header = reserve(batch, sizeof(*header));
	header->nlmsg_type = type;
	header->nlmsg_flags = NLM_F_REQUEST | flags;
	header->nlmsg_seq = ++seq;
	batch->last = header;
	return reserve(batch, fixed);
}

static inline struct rtattr *put(struct batch *batch, int type, const void *data, size_t len)
{
	struct rtattr *attr = reserve(batch, RTA_LENGTH(len));

	attr->rta_type = type;
	attr->rta_len = RTA_LENGTH(len);
	if (len)
		memcpy(RTA_DATA(attr), data, len);
	return attr;
}

static inline void put_u32(struct batch *batch, int type, uint32_t value)
{
	put(batch, type, &value, sizeof(value));
}

static inline void put_text(struct batch *batch, int type, const char *text)
{
	put(batch, type, text, strlen(text) + 1);
}

static inline void put_ip(struct batch *batch, int type, const char *text)
{
	struct in_addr ip;

	inet_pton(AF_INET, text, &ip);
	put(batch, type, &ip, sizeof(ip));
}

static inline void end(struct batch *batch, struct rtattr *nest)
{
	nest->rta_len = batch->bytes + batch->len - (unsigned char *)nest;
}

static inline struct ifinfomsg *link_message(struct batch *batch, int type, int flags, int index, int up)
{
	struct ifinfomsg *link = message(batch, type, flags, sizeof(*link));

	link->ifi_index = index;
	link->ifi_flags = link->ifi_change = up ? IFF_UP : 0;
	return link;
}

static inline void address(struct batch *batch, int index, const char *ip)
{
	struct ifaddrmsg *header = message(batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof(*header));

	header->ifa_family = AF_INET;
	header->ifa_prefixlen = 24;
	header->ifa_index = index;
	put_ip(batch, IFA_LOCAL, ip);
	put_ip(batch, IFA_ADDRESS, ip);
}

/* Send the batch in one piece, and wait for the last message's acknowledgement; an earlier one's error comes first. */
static inline void talk(int rtnl, struct batch *batch, const char *step)
{
	unsigned char reply[4096] __attribute__((aligned(NLMSG_ALIGNTO)));
	uint32_t last = batch->last->nlmsg_seq, answered = 0;
	struct nlmsghdr *header;

	batch->last->nlmsg_flags |= NLM_F_ACK;
	if (send(rtnl, batch->bytes, batch->len, 0) < 0)
		die(step);
	while (answered != last) {
		ssize_t len = recv(rtnl, reply, sizeof(reply), 0);
		int left = (int)len;

		if (len < 0)
			die(step);
		for (header = (void *)reply; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
			struct nlmsgerr *error = NLMSG_DATA(header);

			if (header->nlmsg_type != NLMSG_ERROR)
				continue;
			if (error->error) {
				errno = -error->error;
				die(step);
			}
			answered = header->nlmsg_seq;
		}
	}
}

/* --- a descriptor passed on ------------------------------------------------------------------------------------- */

/* A message of one byte, with room for one descriptor. */
struct parcel {
	char body;
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(sizeof(size_t))));
	struct iovec iov;
	struct msghdr msg;
};

static inline struct cmsghdr *wrap(struct parcel *parcel)
{
	memset(parcel, 0, sizeof(*parcel));
	parcel->iov.iov_base = &parcel->body;
	parcel->iov.iov_len = 1;
	parcel->msg.msg_iov = &parcel->iov;
	parcel->msg.msg_iovlen = 1;
	parcel->msg.msg_control = parcel->control;
	parcel->msg.msg_controllen = sizeof(parcel->control);
	return CMSG_FIRSTHDR(&parcel->msg);
}

static inline void pass(int channel, int fd)
{
	struct parcel parcel;
	struct cmsghdr *header = wrap(&parcel);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	if (sendmsg(channel, &parcel.msg, MSG_NOSIGNAL) < 0)
		_exit(1);
}

static inline int take(int channel)
{
	struct parcel parcel;
	int fd;

	wrap(&parcel);
	if (recvmsg(channel, &parcel.msg, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&parcel.msg))
		die("socket of the child");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&parcel.msg)), sizeof(int));
	return fd;
}

#endif
