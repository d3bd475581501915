/*
 * Straight-line C: what the kernel takes for one container when one thing is done after the other.
 *
 * "up" on standard input: a bridge with an address, a child in new user and network namespaces, its id maps, the
 * rtnetlink socket that it opened inside and passed over SCM_RIGHTS, a veth pair with one queue an end, and the
 * container's lo, address, default route and carrier. "up default": the same with as many queues as the kernel gives an
 * end by default, and the socket opened by way of setns, as programs do that have not measured. "up steps": one request
 * at a time, which takes longer and shows what each costs. "down": one group delete of both links, then the child's
 * end. Each line is answered by one, "step=nanoseconds ...", so that whoever asks can put something else between the
 * rounds; "show" by the pids of this process and of the child. A step that fails is one line on standard error and exit
 * 1. By hand: printf 'up\ndown\n' | ./straight
 *
 * It refuses to touch the network that it was started in: it moves to a network namespace of its own, as Netns.new()
 * does. pipelined.c is the same work with two CPUs.
 */
#define _GNU_SOURCE
#include "container.h"

static int next_index = 100;		/* new ones each time, as the kernel would choose them */

static void finish(int rtnl, struct container *container, struct laps *laps)
{
	make_inside(container->rtnl, "10.0.0.2", 0);
	lap(laps, "container");
	all_carriers(rtnl, container->rtnl);
	lap(laps, "carrier");
	next_index += 2;
}

static void up(int rtnl, struct container *container, struct laps *laps)
{
	make_bridge(rtnl, next_index);
	lap(laps, "bridge");
	clone_child(container, CLONE_NEWUSER | CLONE_NEWNET, hand_over_and_park);
	lap(laps, "clone");
	map_child(container);
	lap(laps, "maps");
	container->rtnl = take(container->channel);
	lap(laps, "socket");
	make_veth(rtnl, next_index + 1, next_index, 1, IFLA_NET_NS_PID, container->pid);
	lap(laps, "veth");
	finish(rtnl, container, laps);
}

/* --- as programs do that have not measured ---------------------------------------------------------------------- */

/* By going there and coming back. */
static int socket_inside(pid_t pid)
{
	int here = open_netns("self"), there, rtnl;
	char process[16];

	snprintf(process, sizeof(process), "%d", pid);
	there = open_netns(process);
	enter(there);
	rtnl = route_socket();
	if (rtnl < 0)
		die("socket");
	enter(here);
	close(there);
	close(here);
	return rtnl;
}

static void up_default(int rtnl, struct container *container, struct laps *laps)
{
	make_bridge(rtnl, next_index);
	lap(laps, "bridge");
	clone_child(container, CLONE_NEWUSER | CLONE_NEWNET, park);
	lap(laps, "clone");
	map_child(container);
	lap(laps, "maps");
	make_veth(rtnl, next_index + 1, next_index, DEFAULT_QUEUES, IFLA_NET_NS_PID, container->pid);
	lap(laps, "veth");
	container->rtnl = socket_inside(container->pid);
	lap(laps, "socket");
	finish(rtnl, container, laps);
}

/* --- one request at a time -------------------------------------------------------------------------------------- */

/* Make the network namespace when the parent has asked for it, and say when it is there. */
static void unshare_and_park(int channel)
{
	char byte = 0;

	if (read(channel, &byte, 1) != 1 || unshare(CLONE_NEWNET) < 0 || write(channel, &byte, 1) != 1)
		_exit(1);
	hand_over_and_park(channel);
}

static void ask_for_netns(int channel)
{
	char byte = 0;

	if (write(channel, &byte, 1) != 1 || read(channel, &byte, 1) != 1)
		die("unshare");
}

static void set_up(int rtnl, int index)
{
	struct batch batch = { .len = 0 };

	link_message(&batch, RTM_SETLINK, 0, index, 1);
	talk(rtnl, &batch, "up");
}

static void bridge_in_steps(int rtnl, int index, struct laps *laps)
{
	struct batch created = { .len = 0 }, addressed = { .len = 0 };

	put_bridge(&created, index, 0);
	talk(rtnl, &created, "bridge");
	lap(laps, "bridge");
	address(&addressed, index, "10.0.0.1");
	talk(rtnl, &addressed, "address");
	lap(laps, "bridge-address");
	set_up(rtnl, index);
	lap(laps, "bridge-up");
}

static void enslave(int rtnl, int index, int bridge)
{
	struct batch batch = { .len = 0 };

	link_message(&batch, RTM_SETLINK, 0, index, 0);
	put_u32(&batch, IFLA_MASTER, bridge);
	talk(rtnl, &batch, "enslave");
}

static void up_steps(int rtnl, struct container *container, struct laps *laps)
{
	struct batch addressed = { .len = 0 }, routed = { .len = 0 };

	clone_child(container, CLONE_NEWUSER, unshare_and_park);
	lap(laps, "clone");
	map_child(container);
	lap(laps, "maps");
	ask_for_netns(container->channel);
	lap(laps, "netns");
	container->rtnl = take(container->channel);
	lap(laps, "socket");
	bridge_in_steps(rtnl, next_index, laps);
	make_veth(rtnl, next_index + 1, 0, 1, IFLA_NET_NS_PID, container->pid);
	lap(laps, "veth");
	enslave(rtnl, next_index + 1, next_index);
	lap(laps, "enslave");
	set_up(rtnl, next_index + 1);
	lap(laps, "veth-up");
	set_up(container->rtnl, LOOPBACK);
	lap(laps, "lo-up");
	set_up(container->rtnl, INSIDE);
	lap(laps, "eth0-up");
	address(&addressed, INSIDE, "10.0.0.2");
	talk(container->rtnl, &addressed, "address");
	lap(laps, "address");
	put_route(&routed);
	talk(container->rtnl, &routed, "route");
	lap(laps, "route");
	all_carriers(rtnl, container->rtnl);
	lap(laps, "carrier");
	next_index += 2;
}

/* ---------------------------------------------------------------------------------------------------------------- */

/* The links first: once its process ends, the kernel takes the namespace apart, and that may hold up the delete. */
static void down(int rtnl, struct container *container, struct laps *laps)
{
	delete_group(rtnl);
	lap(laps, "links");
	end_child(container);
	lap(laps, "process");
}

int main(void)
{
	struct container container;
	struct laps laps;
	char line[32];
	int rtnl;

	move_away();
	rtnl = route_socket();
	if (rtnl < 0)
		die("socket");
	while (fgets(line, sizeof(line), stdin)) {
		start(&laps);
		if (is(line, "up"))
			up(rtnl, &container, &laps);
		else if (is(line, "up default"))
			up_default(rtnl, &container, &laps);
		else if (is(line, "up steps"))
			up_steps(rtnl, &container, &laps);
		else if (is(line, "down"))
			down(rtnl, &container, &laps);
		if (is(line, "show"))
			say_where(&container, -1);
		else
			puts(laps.line);
		fflush(stdout);
	}
	return 0;
}
