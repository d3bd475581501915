/*
 * The floor of many: what the kernel takes for N slots, each a network namespace at a bridge, and for their end.
 *
 * A line "new N" on standard input makes N namespaces, with an rtnetlink socket in each. "bridges B" makes bridges, up,
 * with an address. "attach" makes for each namespace a veth pair with one queue an end: the peer is born inside, the
 * host's end is a port and up, and neither end has a link-local address. Inside, lo is up, eth0 has an address,
 * carrier and a default route. "detach" deletes the pairs, "down" the bridges, each by one group delete; "close" lets
 * the namespaces go. "cycle N" makes one more slot at the first bridge and deletes it, N times. Each line is answered
 * by one, "step=nanoseconds ..."; "show" by the number of a descriptor of the last slot's namespace, and an empty line.
 * A step that fails is one line on standard error and exit 1. By hand:
 *	printf 'new 1000\nbridges 1\nattach\ndetach\ndown\nclose\n' | ./slots
 *
 * A port comes up last, when its peer is up: its state changes once then, and each change costs as much as the bridge
 * has ports (br_port_state_selection()). With an argument, "ports-first", it is born up, as one would write it first.
 *
 * It knows rtnetlink as bytes. It refuses to know nsnet, and to touch the network that it was started in: like
 * straight.c it moves to a network namespace of its own. One thread: with others that make namespaces meanwhile it is
 * no faster, for all of them wait for RTNL.
 */
#define _GNU_SOURCE
#define BATCH_BYTES (1 << 17)
#include <sys/resource.h>

#include "container.h"

#define MOST 8192		/* slots */
#define MOST_BRIDGES 250
#define BRIDGES 4711		/* groups; never 0, which is every link's */
#define PORTS 4712
#define ONE 4713
#define CHUNK 128		/* veth pairs in one send: more of them gain nothing */

struct fleet {
	int netns, rtnl;		/* where the bridges are, and a socket in it */
	int slots, bridges;
	int next;			/* ifindex: new ones each time, as the kernel would choose them */
	int first_bridge;
	int shown;			/* the namespace of the last slot, for others to look at */
	int sockets[MOST];
};

static struct fleet fleet = { .next = 100, .shown = -1 };
static struct batch batch;		/* the one that is filled now: too big for the stack */
static int ports_first;

/* --- namespaces ------------------------------------------------------------------------------------------------- */

/* A socket in a new namespace, to which the caller moves. */
static int make_netns(void)
{
	int rtnl;

	if (unshare(CLONE_NEWNET) < 0)
		die("unshare");
	rtnl = route_socket();
	if (rtnl < 0)
		die("socket");
	return rtnl;
}

static int netns_of(int rtnl)
{
	int fd = ioctl(rtnl, SIOCGSKNS);

	if (fd < 0)
		die("namespace of a socket");
	return fd;
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
		put_quiet(&batch, fleet.next);
		give_address(fleet.next, number, 1);
		link_message(&batch, RTM_SETLINK, 0, fleet.next, 1);
		talk(fleet.rtnl, &batch, "bridge");
	}
}

/* `number`: of the slot, which is in its name, and says at which bridge it is. Returns the port's ifindex. */
static int put_pair(int number, int group, int netns)
{
	int index = fleet.next++;
	struct rtattr *info, *data, *peer;
	struct ifinfomsg *inside;
	char name[IFNAMSIZ];

	link_message(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, index, ports_first);
	snprintf(name, sizeof(name), "slot%d", number);
	put_text(&batch, IFLA_IFNAME, name);
	put_u32(&batch, IFLA_GROUP, group);
	put_u32(&batch, IFLA_MASTER, fleet.first_bridge + number % fleet.bridges);
	put_queues(&batch, 1);
	info = put(&batch, IFLA_LINKINFO, NULL, 0);
	put_text(&batch, IFLA_INFO_KIND, "veth");
	data = put(&batch, IFLA_INFO_DATA, NULL, 0);
	peer = put(&batch, VETH_INFO_PEER, NULL, 0);
	inside = reserve(&batch, sizeof(*inside));
	inside->ifi_index = INSIDE;
	put_text(&batch, IFLA_IFNAME, "eth0");
	put_queues(&batch, 1);
	put_u32(&batch, IFLA_NET_NS_FD, netns);
	end(&batch, peer);
	end(&batch, data);
	end(&batch, info);
	put_quiet(&batch, index);
	return index;
}

/* Returns the first one's ifindex. */
static int make_pairs(int first, int count)
{
	int netns[CHUNK], index = fleet.next, number;

	begin();
	for (number = 0; number < count; number++) {
		netns[number] = netns_of(fleet.sockets[first + number]);
		put_pair(first + number, PORTS, netns[number]);
	}
	talk(fleet.rtnl, &batch, "veth");
	for (number = 0; number < count; number++)
		close(netns[number]);
	return index;
}

static void raise_ports(int index, int count)
{
	begin();
	while (count-- > 0)
		link_message(&batch, RTM_SETLINK, 0, index++, 1);
	talk(fleet.rtnl, &batch, "up");
}

static void configure(int rtnl, int number)
{
	int bridge = number % fleet.bridges;
	struct rtmsg *route;

	begin();
	link_message(&batch, RTM_SETLINK, 0, LOOPBACK, 1);
	put_quiet(&batch, INSIDE);
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

static void delete_links(int group)
{
	begin();
	link_message(&batch, RTM_DELLINK, 0, 0, 0);
	put_u32(&batch, IFLA_GROUP, group);
	talk(fleet.rtnl, &batch, "delete");
}

/* --- what is asked ---------------------------------------------------------------------------------------------- */

static void make_namespaces(void)
{
	int slot;

	for (slot = 0; slot < fleet.slots; slot++)
		fleet.sockets[slot] = make_netns();
	enter(fleet.netns);
}

/* A chunk after the other, and each step of all chunks together in the answer. */
static void attach(struct laps *laps)
{
	int64_t veth = 0, container = 0, port = 0, at = now();
	int first, slot, count, index;

	for (first = 0; first < fleet.slots; first += count) {
		count = fleet.slots - first < CHUNK ? fleet.slots - first : CHUNK;
		index = make_pairs(first, count);
		veth += since(&at);
		for (slot = first; slot < first + count; slot++)
			configure(fleet.sockets[slot], slot);
		container += since(&at);
		if (!ports_first)
			raise_ports(index, count);
		port += since(&at);
	}
	for (slot = 0; slot < fleet.slots; slot++)
		carriers(fleet.sockets[slot], slot);
	carriers_of_bridges();
	say(laps, "veth", veth);
	say(laps, "container", container);
	say(laps, "port", port);
	say(laps, "carrier", since(&at));
}

static void hide(void)
{
	if (fleet.shown >= 0)
		close(fleet.shown);
	fleet.shown = -1;
}

static void let_go(void)
{
	int slot;

	for (slot = 0; slot < fleet.slots; slot++)
		close(fleet.sockets[slot]);
	fleet.slots = 0;
	hide();
}

static void cycle(int count)
{
	int rtnl, netns, index;

	while (count-- > 0) {
		rtnl = make_netns();
		enter(fleet.netns);
		netns = netns_of(rtnl);
		begin();
		index = put_pair(fleet.slots, ONE, netns);
		talk(fleet.rtnl, &batch, "veth");
		close(netns);
		configure(rtnl, fleet.slots);
		if (!ports_first)
			raise_ports(index, 1);
		carriers(rtnl, fleet.slots);
		delete_links(ONE);
		close(rtnl);
	}
}

static int number_in(const char *text, int most, const char *what)
{
	int number = atoi(text);

	if (number < 1 || number > most) {
		errno = ERANGE;
		die(what);
	}
	return number;
}

static void obey(char *line, struct laps *laps)
{
	const char *verb = strtok(line, " \n"), *number = strtok(NULL, " \n");

	verb = verb ? verb : "";
	number = number ? number : "";
	if (!strcmp(verb, "new")) {
		fleet.slots = number_in(number, MOST, "slots");
		make_namespaces();
		lap(laps, "namespaces");
	} else if (!strcmp(verb, "bridges")) {
		fleet.bridges = number_in(number, MOST_BRIDGES, "bridges");
		make_bridges();
		lap(laps, "bridges");
	} else if (!strcmp(verb, "attach") && fleet.bridges) {
		attach(laps);
	} else if (!strcmp(verb, "detach")) {
		delete_links(PORTS);
		lap(laps, "ports");
	} else if (!strcmp(verb, "down")) {
		delete_links(BRIDGES);
		fleet.bridges = 0;
		lap(laps, "bridges");
	} else if (!strcmp(verb, "close")) {
		let_go();
		lap(laps, "sockets");
	} else if (!strcmp(verb, "cycle") && fleet.bridges) {
		cycle(number_in(number, 1000000, "cycles"));
		lap(laps, "cycles");
	} else if (!strcmp(verb, "show") && fleet.slots) {
		hide();
		fleet.shown = netns_of(fleet.sockets[fleet.slots - 1]);
		snprintf(laps->line, sizeof(laps->line), "%d\n", fleet.shown);
	} else {
		errno = EINVAL;
		die(verb);
	}
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

	ports_first = argc > 1 && !strcmp(argv[1], "ports-first");
	raise_limit();
	move_away();
	fleet.rtnl = route_socket();
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
