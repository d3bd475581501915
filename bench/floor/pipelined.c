/*
 * The floor: the fastest C that we know for one container. The kernel makes the network namespace on one CPU while the
 * bridge is built on another.
 *
 * "up" on standard input: a child in a new user namespace, which shares this program's memory, makes its network
 * namespace itself, opens its rtnetlink socket there and passes it on; meanwhile a bridge with an address; then the id
 * maps, a veth pair with one queue an end, and the container's lo, address and default route, with IPv6's link-local
 * addresses off, and carrier. "attach up": the same on the bridge that "bridge" has made. "netns": a network namespace
 * of its own user namespace instead of a child, made by going there and coming back. Each ends with the end state of
 * straight.c's "up". "down": one group delete of all links, then the child's end; "detach": the same of the veth pair
 * alone. Answers as straight.c's.
 *
 * Whoever knows something faster that ends in the same state: it belongs here.
 */
#define _GNU_SOURCE
#include "container.h"

#define STACK_BYTES 16384

static int next_index = 100;
static int bridge_index;
static int held_netns = -1;		/* what "netns" has made */

/* --- the child: its memory is this program's, which runs beside it; so it calls nothing that keeps a state -------- */

struct task {
	int theirs, ours;		/* ends of the channel; its descriptors are its own */
};

static int make_netns(void *argument)
{
	struct task *task = argument;

	close(task->ours);
	if (unshare(CLONE_NEWNET) < 0)
		_exit(1);
	hand_over_and_park(task->theirs);
	return 1;
}

static void begin_child(struct container *container)
{
	static unsigned char stack[STACK_BYTES] __attribute__((aligned(16)));
	static struct task task;
	int ends[2], pidfd;

	channel_of(container, ends);
	task.ours = ends[0];
	task.theirs = ends[1];
	container->pid = clone(make_netns, stack + sizeof(stack),
			       CLONE_VM | CLONE_NEWUSER | CLONE_PIDFD | SIGCHLD, &task, &pidfd);
	if (container->pid < 0)
		die("clone");
	close(ends[1]);
	close(pidfd);
}

/* --- the parent ------------------------------------------------------------------------------------------------- */

static void bridge(int rtnl)
{
	bridge_index = next_index++;
	make_bridge(rtnl, bridge_index);
}

static void join(int rtnl, struct container *container, int where, int netns, struct laps *laps)
{
	make_veth(rtnl, next_index++, bridge_index, 1, where, netns);
	lap(laps, "veth");
	make_inside(container->rtnl, "10.0.0.2", 1);
	lap(laps, "container");
	all_carriers(rtnl, container->rtnl);
	lap(laps, "carrier");
}

/* `whole`: with the bridge. */
static void up(int rtnl, struct container *container, int whole, struct laps *laps)
{
	begin_child(container);
	lap(laps, "clone");
	if (whole) {
		bridge(rtnl);
		lap(laps, "bridge");
	}
	map_child(container);
	lap(laps, "maps");
	container->rtnl = take(container->channel);
	lap(laps, "socket");
	join(rtnl, container, IFLA_NET_NS_PID, container->pid, laps);
}

static void up_netns(int rtnl, struct container *container, int here, struct laps *laps)
{
	if (unshare(CLONE_NEWNET) < 0)
		die("unshare");
	container->rtnl = route_socket();
	if (container->rtnl < 0)
		die("socket");
	held_netns = open_netns("thread-self");
	enter(here);
	lap(laps, "netns");
	join(rtnl, container, IFLA_NET_NS_FD, held_netns, laps);
}

static void down(int rtnl, struct container *container, int whole, struct laps *laps)
{
	if (whole)
		delete_group(rtnl);
	else
		delete_link(rtnl, next_index - 1);
	lap(laps, "links");
	if (held_netns < 0) {
		end_child(container);
	} else {
		close(container->rtnl);
		close(held_netns);
		held_netns = -1;
	}
	lap(laps, "process");
}

int main(void)
{
	struct container container;
	struct laps laps;
	char line[32];
	int rtnl, here;

	move_away();
	here = open_netns("self");
	rtnl = route_socket();
	if (rtnl < 0)
		die("socket");
	while (fgets(line, sizeof(line), stdin)) {
		start(&laps);
		if (is(line, "up") || is(line, "attach up"))
			up(rtnl, &container, line[0] == 'u', &laps);
		else if (is(line, "netns"))
			up_netns(rtnl, &container, here, &laps);
		else if (is(line, "down") || is(line, "detach"))
			down(rtnl, &container, is(line, "down"), &laps);
		else if (is(line, "bridge"))
			bridge(rtnl);
		if (is(line, "show"))
			say_where(&container, held_netns);
		else
			puts(laps.line);
		fflush(stdout);
	}
	return 0;
}
