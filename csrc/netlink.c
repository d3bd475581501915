/*
 * The conversation with rtnetlink: one send, then the replies.
 *
 * Knows sockets, message headers and sequence numbers. Refuses to know what a message means: it copies what belongs to
 * the talk and lets Python read it. The caller holds the socket's lock; nothing here may be called twice at once on one
 * socket. A reply counts only if the kernel sent it (the socket is connected to port 0, so nobody else's arrives; the
 * sender is checked all the same) and its sequence number is of this talk: what an interrupted talk left behind in the
 * queue is dropped here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/socket.h>
#include <linux/netlink.h>

#include "api.h"

/* The largest datagram that rtnetlink makes: a dump fills at most 32 KiB (netlink_dump in net/netlink/af_netlink.c),
 * an answer to one request stays below 64 KiB since an attribute's length is 16 bits. A multiple of NLMSG_ALIGNTO. */
#define DATAGRAM_MAX 65536

int nsnet_nl_open(int protocol)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

	return fd < 0 ? -errno : fd;
}

/* Make a fresh NETLINK socket one that can be trusted: bound, connected to the kernel, with full error reports. The two
 * options are older than our kernel floor (4.12, 4.20), so a failure is a failure. */
int nsnet_nl_prepare(int fd, uint32_t *port)
{
	static const int options[] = { NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK };
	struct sockaddr_nl local = { .nl_family = AF_NETLINK };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	socklen_t len = sizeof(local);
	const int on = 1;

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (setsockopt(fd, SOL_NETLINK, options[i], &on, sizeof(on)) < 0)
			return -errno;
	if (bind(fd, (struct sockaddr *)&local, sizeof(local)) < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	if (getsockname(fd, (struct sockaddr *)&local, &len) < 0)
		return -errno;
	*port = local.nl_pid;
	return 0;
}

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int wait_readable(int fd, int64_t deadline)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	int64_t left = deadline - now();
	int ready;

	if (left <= 0)
		return -ETIMEDOUT;
	ready = poll(&pfd, 1, (int)((left + 999999) / 1000000));
	if (ready < 0)
		return -errno;
	return ready == 0 ? -ETIMEDOUT : 0;
}

/* One datagram into buf. Returns its length, 0 if somebody other than the kernel sent it. */
static ssize_t receive(int fd, uint8_t *buf, size_t size, int64_t deadline)
{
	struct sockaddr_nl from;
	struct iovec iov = { .iov_base = buf, .iov_len = size };
	struct msghdr msg;
	ssize_t len;
	int err;

	for (;;) {
		memset(&msg, 0, sizeof(msg));
		msg.msg_name = &from;
		msg.msg_namelen = sizeof(from);
		msg.msg_iov = &iov;
		msg.msg_iovlen = 1;
		len = recvmsg(fd, &msg, MSG_DONTWAIT);
		if (len >= 0)
			break;
		if (errno != EAGAIN)
			return -errno;
		err = wait_readable(fd, deadline);
		if (err < 0)
			return err;
	}
	if (msg.msg_flags & MSG_TRUNC)
		return -EMSGSIZE;
	if (msg.msg_namelen != sizeof(from) || from.nl_pid != 0)
		return 0;
	return len;
}

/*
 * Keep the messages of this talk in buf[0..len), close the gaps, and say in *finished whether the last one's answer was
 * among them. Returns the length kept, or -EBADMSG for a header that contradicts the datagram.
 */
static ssize_t keep_ours(uint8_t *buf, size_t len, const struct nsnet_talk *talk, int *finished)
{
	size_t in = 0, out = 0;

	while (len - in >= sizeof(struct nlmsghdr)) {
		struct nlmsghdr header;
		size_t step;

		memcpy(&header, buf + in, sizeof(header));
		if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > len - in)
			return -EBADMSG;
		step = NLMSG_ALIGN(header.nlmsg_len);
		if (step > len - in) {		/* unpadded at the end: what follows it must start aligned */
			memset(buf + len, 0, in + step - len);
			len = in + step;
		}
		if (header.nlmsg_seq - talk->first_seq <= talk->last_seq - talk->first_seq) {
			memmove(buf + out, buf + in, step);
			out += step;
			if (header.nlmsg_seq == talk->last_seq &&
			    (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE))
				*finished = 1;
		}
		in += step;
	}
	return in == len ? (ssize_t)out : -EBADMSG;
}

int nsnet_nl_talk(int fd, struct nsnet_talk *talk)
{
	int finished = 0;

	if (!talk->sent) {
		ssize_t sent = send(fd, talk->request, talk->request_len, 0);

		if (sent < 0)
			return -errno;
		if ((size_t)sent != talk->request_len)
			return -EMSGSIZE;
		talk->sent = 1;
	}
	while (!finished) {
		uint8_t *room = talk->reply + talk->reply_len;
		ssize_t len;

		if (talk->reply_size - talk->reply_len < DATAGRAM_MAX)
			return NSNET_TALK_MORE_ROOM;
		len = receive(fd, room, DATAGRAM_MAX, talk->deadline);
		if (len < 0)
			return (int)len;
		len = keep_ours(room, (size_t)len, talk, &finished);
		if (len < 0)
			return (int)len;
		talk->reply_len += (size_t)len;
	}
	return NSNET_TALK_DONE;
}

/* Throw away what an interrupted talk left: its answers, and the rest of a dump, which would make the next one EBUSY. */
int nsnet_nl_drain(int fd)
{
	uint8_t byte;

	for (;;) {
		ssize_t len = recv(fd, &byte, sizeof(byte), MSG_DONTWAIT | MSG_TRUNC);

		if (len < 0 && errno == EAGAIN)
			return 0;
		if (len < 0 && errno != EINTR && errno != ENOBUFS)
			return -errno;
	}
}
