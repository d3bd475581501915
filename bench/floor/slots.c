/*
 * The floor of many: what the kernel takes for N slots, each a network namespace on a bridge, and for their end.
 *
 * A line "new N" on standard input makes N namespaces, with an rtnetlink socket in each. "attach B" makes B bridges and,
 * for each namespace, a veth pair with one queue an end: the peer is born inside, the host's end is up and a port.
 * Inside, lo is up, eth0 has an address but no link-local one, carrier, and a default route. "up N B" is both. "detach"
 * deletes the pairs, "down" the bridges, each by one group delete; "close" lets the namespaces go. "cycle N" makes one
 * more slot on the first bridge, on a namespace of its own, and deletes it, N times. Each line is answered by one,
 * "step=nanoseconds ..."; a step that fails is one line on standard error and exit 1. By hand:
 *	printf 'up 1000 1\ndetach\ndown\nclose\n' | ./slots 1
 *
 * The argument is how many threads make namespaces: with one all is a straight line, with more the first thread attaches
 * what the others have made meanwhile. Knows rtnetlink as bytes; refuses to know nsnet, and to touch the network that it
 * was started in: like straight.c it moves to a network namespace of its own.
 */
#define _GNU_SOURCE
#define BATCH_BYTES (1 << 17)
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "floor.h"

#define MOST 8192		/* slots */
#define MOST_THREADS 8
#define BRIDGES 4711		/* groups; never 0, which is every link's */
#define PORTS 4712
#define ONE 4713
#define INSIDE 1000		/* the ifindex of eth0: above tunl0 and the like, which appear in every namespace */
#define LOOPBACK 1
#ifndef CHUNK
#define CHUNK 128		/* veth pairs in one send: more of them gain nothing */
#endif

struct fleet {
	int netns, rtnl;		/* where the bridges are, and a socket in it */
	int slots, bridges;
	int next;			/* ifindex: new ones each time, as the kernel would choose them */
	int first_bridge;
	int sockets[MOST];
};

static struct fleet fleet = { .next = 100 };
static struct batch batch;		/* of the first thread, which alone talks */

/* --- namespaces ------------------------------------------------------------------------------------------------- */

struct maker {
	pthread_t thread;
	int number;
	sem_t made;
};

static struct maker makers[MOST_THREADS];
static int threads;

/* The calling thread moves to a new namespace. */
static int make_one(void)
{
	int fd;

	if (unshare(CLONE_NEWNET) < 0)
		die("unshare");
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		die("socket");
	return fd;
}

static void go_home(void)
{
	if (setns(fleet.netns, CLONE_NEWNET) < 0)
		die("setns");
}

static void *make(void *argument)
{
	struct maker *maker = argument;
	int slot;

	for (slot = maker->number; slot < fleet.slots; slot += threads) {
		fleet.sockets[slot] = make_one();
		sem_post(&maker->made);
	}
	return NULL;
}

static void start_making(void)
{
	int number;

	for (number = 0; number < threads; number++) {
		makers[number].number = number;
		if (sem_init(&makers[number].made, 0, 0) < 0)
			die("semaphore");
		if (threads > 1 && pthread_create(&makers[number].thread, NULL, make, &makers[number]))
			die("thread");
	}
	if (threads == 1) {
		make(&makers[0]);
		go_home();
	}
}

static void wait_for(int slot)
{
	while (sem_wait(&makers[slot % threads].made) < 0)
		;
}

static void end_making(void)
{
	int number;

	for (number = 0; threads > 1 && number < threads; number++)
		pthread_join(makers[number].thread, NULL);
}

/* --- links ------------------------------------------------------------------------------------------------------ */

static void begin(void)
{
	batch.len = 0;
	batch.last = NULL;
}

static void put_host(int type, int bridge, int number)
{
	uint32_t value = htonl(10u << 24 | bridge << 16 | number);

	put(&batch, type, &value, sizeof(value));
}

/* The bridge is the first host of its subnet. */
static void give_address(int index, int bridge, int number)
{
	struct ifaddrmsg *header = message(&batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof(*header));

	header->ifa_family = AF_INET;
	header->ifa_prefixlen = 16;
	header->ifa_index = index;
	put_host(IFA_LOCAL, bridge, number);
	put_host(IFA_ADDRESS, bridge, number);
}

/* So that nothing is flooded for IPv6 when the link comes up. */
static void no_link_local(int index)
{
	uint8_t none = IN6_ADDR_GEN_MODE_NONE;
	struct rtattr *families, *inet6;

	link_message(&batch, RTM_SETLINK, 0, index, 0);
	families = put(&batch, IFLA_AF_SPEC, NULL, 0);
	inet6 = put(&batch, AF_INET6, NULL, 0);
	put(&batch, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof(none));
	end(&batch, inet6);
	end(&batch, families);
}

static void make_bridges(void)
{
	struct rtattr *info;
	char name[IFNAMSIZ];
	int number;

	fleet.first_bridge = fleet.next;
	for (number = 0; number < fleet.bridges; number++, fleet.next++) {
		begin();
		link_message(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, fleet.next, 0);
		snprintf(name, sizeof(name), "br%d", number);
		put_text(&batch, IFLA_IFNAME, name);
		put_u32(&batch, IFLA_GROUP, BRIDGES);
		info = put(&batch, IFLA_LINKINFO, NULL, 0);
		put_text(&batch, IFLA_INFO_KIND, "bridge");
		end(&batch, info);
		no_link_local(fleet.next);
		give_address(fleet.next, number, 1);
		link_message(&batch, RTM_SETLINK, 0, fleet.next, 1);
		talk(fleet.rtnl, &batch, "bridge");
	}
}

/* `number`: of the slot, which is in its name, and says which bridge it is at. */
static void put_pair(int number, int group, int netns)
{
	struct rtattr *info, *data, *peer;
	struct ifinfomsg *inside;
	char name[IFNAMSIZ];

	link_message(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, fleet.next++, 1);
	snprintf(name, sizeof(name), "slot%d", number);
	put_text(&batch, IFLA_IFNAME, name);
	put_u32(&batch, IFLA_GROUP, group);
	put_u32(&batch, IFLA_MASTER, fleet.first_bridge + number % fleet.bridges);
	put_u32(&batch, IFLA_NUM_TX_QUEUES, 1);
	put_u32(&batch, IFLA_NUM_RX_QUEUES, 1);
	info = put(&batch, IFLA_LINKINFO, NULL, 0);
	put_text(&batch, IFLA_INFO_KIND, "veth");
	data = put(&batch, IFLA_INFO_DATA, NULL, 0);
	peer = put(&batch, VETH_INFO_PEER, NULL, 0);
	inside = reserve(&batch, sizeof(*inside));
	inside->ifi_index = INSIDE;
	put_text(&batch, IFLA_IFNAME, "eth0");
	put_u32(&batch, IFLA_NUM_TX_QUEUES, 1);
	put_u32(&batch, IFLA_NUM_RX_QUEUES, 1);
	put_u32(&batch, IFLA_NET_NS_FD, netns);
	end(&batch, peer);
	end(&batch, data);
	end(&batch, info);
}

static int netns_of(int rtnl)
{
	int fd = ioctl(rtnl, SIOCGSKNS);

	if (fd < 0)
		die("namespace of a socket");
	return fd;
}

static void make_pairs(int first, int count)
{
	int netns[CHUNK], number;

	begin();
	for (number = 0; number < count; number++) {
		netns[number] = netns_of(fleet.sockets[first + number]);
		put_pair(first + number, PORTS, netns[number]);
	}
	talk(fleet.rtnl, &batch, "veth");
	for (number = 0; number < count; number++)
		close(netns[number]);
}

static void configure(int rtnl, int number)
{
	int bridge = number % fleet.bridges;
	struct rtmsg *route;

	begin();
	link_message(&batch, RTM_SETLINK, 0, LOOPBACK, 1);
	no_link_local(INSIDE);
	give_address(INSIDE, bridge, 2 + number / fleet.bridges);
	link_message(&batch, RTM_SETLINK, 0, INSIDE, 1);
	route = message(&batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof(*route));
	route->rtm_family = AF_INET;
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_protocol = RTPROT_BOOT;
	route->rtm_scope = RT_SCOPE_UNIVERSE;
	route->rtm_type = RTN_UNICAST;
	put_host(RTA_GATEWAY, bridge, 1);
	talk(rtnl, &batch, "container");
}

/* As in straight.c: wait until the kernel has acted on the carrier that a link just got (Linux 6.8). */
static void carrier(int rtnl, const char *ifname)
{
	struct ethtool_value value = { .cmd = ETHTOOL_GLINK };
	struct ifreq request = { .ifr_data = (void *)&value };

	strcpy(request.ifr_name, ifname);
	if (ioctl(rtnl, SIOCETHTOOL, &request) < 0)
		die("carrier");
}

static void carriers(int rtnl, int number)
{
	char name[IFNAMSIZ];

	carrier(rtnl, "eth0");
	snprintf(name, sizeof(name), "slot%d", number);
	carrier(fleet.rtnl, name);
}

static void carriers_of_bridges(void)
{
	char name[IFNAMSIZ];
	int number;

	for (number = 0; number < fleet.bridges && number < fleet.slots; number++) {
		snprintf(name, sizeof(name), "br%d", number);
		carrier(fleet.rtnl, name);
	}
}

static void delete_group(int group)
{
	begin();
	link_message(&batch, RTM_DELLINK, 0, 0, 0);
	put_u32(&batch, IFLA_GROUP, group);
	talk(fleet.rtnl, &batch, "delete");
}

/* --- what is asked ---------------------------------------------------------------------------------------------- */

/* A step that comes in pieces, of which some laps are made. */
struct sum {
	int64_t last, namespaces, veth, container;
};

static void add(struct sum *sum, int64_t *part)
{
	int64_t at = now();

	*part += at - sum->last;
	sum->last = at;
}

static void attach(struct laps *laps)
{
	struct sum sum = { .last = now() };
	int first, slot, count;

	for (first = 0; first < fleet.slots; first += count) {
		count = fleet.slots - first < CHUNK ? fleet.slots - first : CHUNK;
		for (slot = first; slot < first + count; slot++)
			wait_for(slot);
		add(&sum, &sum.namespaces);
		make_pairs(first, count);
		add(&sum, &sum.veth);
		for (slot = first; slot < first + count; slot++)
			configure(fleet.sockets[slot], slot);
		add(&sum, &sum.container);
	}
	end_making();
	say(laps, "waiting", sum.namespaces);
	say(laps, "veth", sum.veth);
	say(laps, "container", sum.container);
	laps->last = now();
	for (slot = 0; slot < fleet.slots; slot++)
		carriers(fleet.sockets[slot], slot);
	carriers_of_bridges();
	lap(laps, "carrier");
}

static void cycle(int count)
{
	int rtnl, netns;

	while (count-- > 0) {
		rtnl = make_one();
		go_home();
		netns = netns_of(rtnl);
		begin();
		put_pair(fleet.slots, ONE, netns);
		talk(fleet.rtnl, &batch, "veth");
		close(netns);
		configure(rtnl, fleet.slots);
		carriers(rtnl, fleet.slots);
		delete_group(ONE);
		close(rtnl);
	}
}

static int number_after(char **text, int least, int most, const char *what)
{
	long value = strtol(*text, text, 10);

	if (value < least || value > most) {
		errno = EINVAL;
		die(what);
	}
	return value;
}

static void obey(char *line, struct laps *laps)
{
	char *rest = line + strcspn(line, " \n");
	int slot;

	if (*rest)
		*rest++ = 0;
	if (!strcmp(line, "new") || !strcmp(line, "up")) {
		fleet.slots = number_after(&rest, 1, MOST, "slots");
		start_making();
		lap(laps, "namespaces");
	}
	if (!strcmp(line, "attach") || !strcmp(line, "up")) {
		fleet.bridges = number_after(&rest, 1, 250, "bridges");
		make_bridges();
		lap(laps, "bridges");
		attach(laps);
	}
	if (!strcmp(line, "detach")) {
		delete_group(PORTS);
		lap(laps, "links");
	}
	if (!strcmp(line, "down")) {
		delete_group(BRIDGES);
		lap(laps, "bridges");
	}
	if (!strcmp(line, "close")) {
		for (slot = 0; slot < fleet.slots; slot++)
			close(fleet.sockets[slot]);
		fleet.slots = 0;
		lap(laps, "sockets");
	}
	if (!strcmp(line, "cycle")) {
		cycle(number_after(&rest, 1, 1000000, "cycles"));
		lap(laps, "cycles");
	}
}

static void write_text(const char *path, const char *format, unsigned int id)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || dprintf(fd, format, id) < 0)
		die(path);
	close(fd);
}

static void move_away(void)
{
	unsigned int uid = geteuid(), gid = getegid();

	if (unshare(CLONE_NEWNET) == 0)
		return;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		die("unshare");
	write_text("/proc/self/setgroups", "deny", 0);
	write_text("/proc/self/uid_map", "0 %u 1\n", uid);
	write_text("/proc/self/gid_map", "0 %u 1\n", gid);
}

static void raise_limit(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
	struct laps laps;
	char line[64];

	threads = argc > 1 ? atoi(argv[1]) : 1;
	if (threads < 1 || threads > MOST_THREADS)
		threads = 1;
	raise_limit();
	move_away();
	fleet.rtnl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fleet.rtnl < 0)
		die("socket");
	fleet.netns = netns_of(fleet.rtnl);
	while (fgets(line, sizeof(line), stdin)) {
		start(&laps);
		obey(line, &laps);
		puts(laps.line);
		fflush(stdout);
	}
	return 0;
}
