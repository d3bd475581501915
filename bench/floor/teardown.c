/*
 * The floor of teardown: a bridge with any number of veth pairs, each with its other end in a network namespace of its
 * own, and what it takes to be rid of all links: by one group delete, or one by one.
 *
 * "make N" on standard input sets all of it up, as straight.c does for one; the namespaces stay from one round to the
 * next. "group": one delete of the bridge and of all pairs, which waits for the kernel once. "singly": one for each
 * pair and then the bridge. "grace": one RCU grace period, which is what a delete waits for, by membarrier(2). Each is
 * answered by one line, "step=nanoseconds"; "show" by the pid of this process.
 *
 * It refuses to touch the network that it was started in, as straight.c does.
 */
#define _GNU_SOURCE
#include <linux/membarrier.h>

#include "container.h"

#define PAIRS_MAX 1000		/* a bridge takes 1023 */

struct inside {
	int netns, rtnl;
};

static struct inside insides[PAIRS_MAX];
static int made, pairs;			/* namespaces that there are; pairs that there are now */
static int bridge_index, next_index = 100;

static void make_netns(int here)
{
	struct inside *inside = &insides[made++];

	if (unshare(CLONE_NEWNET) < 0)
		die("unshare");
	inside->rtnl = route_socket();
	if (inside->rtnl < 0)
		die("socket");
	inside->netns = open_netns("thread-self");
	enter(here);
}

static void make_pair(int rtnl, int number)
{
	struct batch batch = { .len = 0 };
	char ifname[IF_NAMESIZE], ip[INET_ADDRSTRLEN];

	snprintf(ifname, sizeof(ifname), "floor-veth%d", number);
	snprintf(ip, sizeof(ip), "10.0.0.%d", 2 + number % 250);	/* nobody talks: they may have the same */
	put_veth(&batch, ifname, next_index++, bridge_index, 1, IFLA_NET_NS_FD, insides[number].netns);
	talk(rtnl, &batch, "veth");
	make_inside(insides[number].rtnl, ip, 1);
}

static void make(int rtnl, int here, int wanted)
{
	if (wanted < 1 || wanted > PAIRS_MAX)
		abort();
	while (made < wanted)
		make_netns(here);
	bridge_index = next_index++;
	make_bridge(rtnl, bridge_index);
	for (pairs = 0; pairs < wanted; pairs++)
		make_pair(rtnl, pairs);
}

static void delete_singly(int rtnl)
{
	for (int index = bridge_index + 1; index <= bridge_index + pairs; index++)
		delete_link(rtnl, index);
	delete_link(rtnl, bridge_index);
}

int main(void)
{
	struct laps laps;
	char line[32];
	int rtnl, here;

	move_away();
	here = open_netns("self");
	rtnl = route_socket();
	if (rtnl < 0)
		die("socket");
	while (fgets(line, sizeof(line), stdin)) {
		int wanted = 0;

		start(&laps);
		if (sscanf(line, "make %d", &wanted) == 1) {
			make(rtnl, here, wanted);
			lap(&laps, "make");
		} else if (is(line, "group")) {
			delete_group(rtnl);
			lap(&laps, "links");
		} else if (is(line, "singly")) {
			delete_singly(rtnl);
			lap(&laps, "links");
		} else if (is(line, "grace")) {
			if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) < 0)
				die("membarrier");
			lap(&laps, "grace");
		}
		if (is(line, "show"))
			printf("%d\n\n", getpid());
		else
			puts(laps.line);
		fflush(stdout);
	}
	return 0;
}
