/*
 * The floor of reading links: one dump request, and a walk along every message's attributes that keeps five of them.
 *
 * For every line "list" on standard input: all links, as they come when nothing is left out. For "lean": all links
 * without their counters (RTEXT_FILTER_SKIP_STATS). For "one INDEX": that link alone, fifty times. Each is answered by
 * one line, "links=nanoseconds" for one reading. With "show " in front the answer is what was read, a line for each
 * link and an empty one behind them.
 *
 * It knows rtnetlink as bytes, shares nothing with csrc/, and stays in the network namespace that it was started in.
 */
#define _GNU_SOURCE
#include "floor.h"

#define LINKS_MAX 65536
#define DATAGRAM_MAX 65536
#define REPEATS 50		/* of "one INDEX": a reading is too short for the clock */

#ifndef RTEXT_FILTER_SKIP_STATS
#define RTEXT_FILTER_SKIP_STATS (1 << 3)
#endif

struct link {
	int index, master;
	unsigned char operstate, lladdr_len, lladdr[32];
	char name[IF_NAMESIZE];
};

static struct link links[LINKS_MAX];
static size_t count;

static void keep(struct link *link, const struct rtattr *attr)
{
	const void *data = RTA_DATA(attr);
	size_t len = RTA_PAYLOAD(attr);

	switch (attr->rta_type) {
	case IFLA_IFNAME:
		if (len <= sizeof(link->name))
			memcpy(link->name, data, len);
		break;
	case IFLA_OPERSTATE:
		memcpy(&link->operstate, data, sizeof(link->operstate));
		break;
	case IFLA_ADDRESS:
		if (len <= sizeof(link->lladdr)) {
			memcpy(link->lladdr, data, len);
			link->lladdr_len = (unsigned char)len;
		}
		break;
	case IFLA_MASTER:
		memcpy(&link->master, data, sizeof(link->master));
		break;
	}
}

static void read_link(struct nlmsghdr *header)
{
	struct ifinfomsg *info = NLMSG_DATA(header);
	struct rtattr *attr = IFLA_RTA(info);
	int left = (int)IFLA_PAYLOAD(header);
	struct link *link = &links[count];

	if (count == LINKS_MAX)
		abort();
	count++;
	memset(link, 0, sizeof(*link));
	link->index = info->ifi_index;
	for (; RTA_OK(attr, left); attr = RTA_NEXT(attr, left))
		keep(link, attr);
}

/* Send one request and read links until its end: a DONE, or an acknowledgement. */
static void read_links(int rtnl, struct batch *batch)
{
	static unsigned char reply[DATAGRAM_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *header;

	count = 0;
	if (send(rtnl, batch->bytes, batch->len, 0) < 0)
		die("send");
	for (;;) {
		int left = (int)recv(rtnl, reply, sizeof(reply), 0);

		if (left < 0)
			die("receive");
		for (header = (void *)reply; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
			if (header->nlmsg_type == NLMSG_DONE)
				return;
			if (header->nlmsg_type == NLMSG_ERROR) {
				errno = -((struct nlmsgerr *)NLMSG_DATA(header))->error;
				if (errno)
					die("link");
				return;
			}
			read_link(header);
		}
	}
}

struct wish {
	int index;		/* 0: all links */
	int lean;
};

static struct wish parse(const char *line)
{
	struct wish wish = { .lean = strncmp(line, "lean", 4) == 0 };

	sscanf(line, "one %d", &wish.index);
	return wish;
}

static void fulfil(int rtnl, struct wish wish)
{
	struct batch batch = { .len = 0 };

	link_message(&batch, RTM_GETLINK, wish.index ? NLM_F_ACK : NLM_F_DUMP, wish.index, 0);
	if (wish.lean)
		put_u32(&batch, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
	read_links(rtnl, &batch);
}

static void show(void)
{
	for (size_t at = 0; at < count; at++) {
		const struct link *link = &links[at];

		printf("%d %s %d %d ", link->index, link->name, link->operstate, link->master);
		for (int byte = 0; byte < link->lladdr_len; byte++)
			printf("%s%02x", byte ? ":" : "", link->lladdr[byte]);
		putchar('\n');
	}
	putchar('\n');
}

static void time_it(int rtnl, struct wish wish)
{
	int repeats = wish.index ? REPEATS : 1;
	int64_t began = now();

	for (int round = 0; round < repeats; round++)
		fulfil(rtnl, wish);
	printf("links=%lld\n", (long long)(now() - began) / repeats);
}

int main(void)
{
	static const char before[] = "show ";
	const size_t len = sizeof(before) - 1;
	int rtnl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	char line[32];

	if (rtnl < 0)
		die("socket");
	while (fgets(line, sizeof(line), stdin)) {
		if (strncmp(line, before, len) == 0) {
			fulfil(rtnl, parse(line + len));
			show();
		} else {
			time_it(rtnl, parse(line));
		}
		fflush(stdout);
	}
	return 0;
}
