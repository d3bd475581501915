/*
 * The conversation with rtnetlink: one send, then the replies.
 *
 * Knows sockets, message headers and sequence numbers. Refuses to know what a message means: it copies what belongs to
 * the talk and lets Python read it. The caller holds the socket's lock; nothing here may be called twice at once on one
 * socket. A reply counts only if the kernel sent it (the socket is connected to port 0, so nobody else's arrives; the
 * sender is checked all the same), it is no notification (a stranger can make the kernel send us those), its port is ours and
 * its sequence number is of this talk: what an interrupted talk left behind in the queue is dropped here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>

#include "api.h"

/* The largest datagram that rtnetlink makes: a dump fills at most 32 KiB (netlink_dump in net/netlink/af_netlink.c),
 * an answer to one request stays below 64 KiB since an attribute's length is 16 bits. A multiple of NLMSG_ALIGNTO. */
#define DATAGRAM_MAX 65536

int nsnet_nl_open(int protocol)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

	return fd < 0 ? -errno : fd;
}

/*
 * Let the kernel drop notifications about links before they are queued.
 *
 * A change of a link with NLM_F_ECHO (Linux 6.2) sends the notification to the port that asked, but in the namespace of
 * the link: root of a container binds our port number in a namespace of its own, chooses a sequence number of ours, makes
 * or deletes a link here (or the far end of a veth that ends here), and the kernel itself sends us RTM_NEWLINK or
 * RTM_DELLINK. What answers a question differs: it is part of a list (NLM_F_MULTI), or its ifi_change is 0.
 */
static int refuse_notifications(int fd)
{
	enum { FLAGS = offsetof(struct nlmsghdr, nlmsg_flags), TYPE = offsetof(struct nlmsghdr, nlmsg_type),
	       CHANGE = NLMSG_HDRLEN + offsetof(struct ifinfomsg, ifi_change) };
	struct sock_filter code[] = {		/* it loads big-endian numbers */
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, FLAGS),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, htons(NLM_F_MULTI), 5, 0),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, TYPE),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_NEWLINK), 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_DELLINK), 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, CHANGE),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ? -errno : 0;
}

/* Make a NETLINK socket one that can be trusted: with full error reports, connected to the kernel (which binds it too),
 * and empty: between getting its port and being connected it takes anybody's messages, and a full queue would cost us the
 * kernel's. The options are older than our kernel floor (4.3, 4.12, 4.20), so a failure is a failure. */
int nsnet_nl_prepare(int fd, uint32_t *port)
{
	static const int options[] = { NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK };
	struct sockaddr_nl local = { .nl_family = AF_NETLINK };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	socklen_t len = sizeof(local);
	const int on = 1;
	int err;

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (setsockopt(fd, SOL_NETLINK, options[i], &on, sizeof(on)) < 0)
			return -errno;
	err = refuse_notifications(fd);		/* they would be recognised by their group, but in the queue they take room */
	if (err < 0)
		return err;
	if (connect(fd, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	if (getsockname(fd, (struct sockaddr *)&local, &len) < 0)
		return -errno;
	*port = local.nl_pid;
	return nsnet_nl_drain(fd);
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

/* One datagram into buf. Returns its length, 0 for what is no answer: somebody other than the kernel sent it, or it is a
 * notification, which comes with its group. */
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
	if (msg.msg_namelen != sizeof(from) || from.nl_pid != 0 || from.nl_groups != 0)
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
		if (header.nlmsg_pid == talk->port &&
		    header.nlmsg_seq - talk->first_seq <= talk->last_seq - talk->first_seq) {
			if (out != in)		/* nearly never: all of a dump is ours */
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

/* Several talks, each on a socket of its own, one after the other. They share the room of the first: what the next one gets
 * follows what the last one got. *done counts those that are over; the one that returned anything else is under way. */
int nsnet_nl_talks(const int *fds, struct nsnet_talk *talks, size_t count, size_t *done)
{
	while (*done < count) {
		struct nsnet_talk *talk = &talks[*done];
		int result = nsnet_nl_talk(fds[*done], talk);

		if (result != NSNET_TALK_DONE)
			return result;
		if (++*done < count) {
			talks[*done].reply = talk->reply + talk->reply_len;
			talks[*done].reply_size = talk->reply_size - talk->reply_len;
		}
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

/* Whether a link has carrier, once the kernel has acted on it (linkwatch_sync_dev(), Linux 6.8). `ifname` fits. */
int nsnet_nl_carrier(int fd, const char *ifname)
{
	struct ethtool_value value = { .cmd = ETHTOOL_GLINK };
	struct ifreq request = { .ifr_data = (void *)&value };

	strncpy(request.ifr_name, ifname, sizeof(request.ifr_name) - 1);
	return ioctl(fd, SIOCETHTOOL, &request) < 0 ? -errno : value.data != 0;
}

/*
 * Where each attribute of data[start..len) has its payload: places[type] = offset << 16 | length, for the first of a type, and
 * 0 for one that is not there. Types from `count` on are left out. Returns 0, -EBADMSG for lengths that make no sense, or
 * -EMSGSIZE for data whose offsets do not fit: then the caller must look for itself.
 */
int nsnet_nl_index(const char *data, size_t len, size_t start, uint32_t *places, size_t count)
{
	memset(places, 0, count * sizeof(*places));
	if (len > UINT16_MAX)
		return -EMSGSIZE;
	while (start < len) {
		struct nlattr attr;
		size_t type;

		if (len - start < sizeof(attr))
			return -EBADMSG;
		memcpy(&attr, data + start, sizeof(attr));
		if (attr.nla_len < sizeof(attr) || attr.nla_len > len - start)
			return -EBADMSG;
		type = attr.nla_type & NLA_TYPE_MASK;
		if (type < count && places[type] == 0)
			places[type] = (uint32_t)(start + sizeof(attr)) << 16 | (attr.nla_len - (uint32_t)sizeof(attr));
		start += NLA_ALIGN(attr.nla_len);
	}
	return 0;
}
