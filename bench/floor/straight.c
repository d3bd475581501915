/*
 * The floor in a straight line: what the kernel takes for one container when nothing stands in the way.
 *
 * For every line "up" on standard input: a bridge with an address, a child in new user and network namespaces, its id
 * maps, the rtnetlink socket that it opened inside and passed over SCM_RIGHTS, a veth pair with one queue an end, and
 * the container's lo, address, default route and carrier. For "down": one group delete of both links, then the child's
 * end. Each line is answered by one, "step=nanoseconds ...", so that whoever asks can put something else between the
 * rounds; a step that fails is one line on standard error and exit 1. By hand: printf 'up\ndown\n' | ./straight
 *
 * It knows rtnetlink as bytes. It refuses to know nsnet (nothing is shared with csrc/), to be safe for a program with
 * threads, and to touch the network that it was started in: it always moves to a network namespace of its own, owned by
 * its user namespace if that is allowed and by a new one if not, as Netns.new() does.
 */
#define _GNU_SOURCE
#include <linux/ethtool.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "floor.h"

#define GROUP 4711		/* of our links; never 0, which is every link's */
#define INSIDE 1000		/* the ifindex of eth0: above tunl0 and the like, which appear in every namespace */
#define LOOPBACK 1

/* --- the child -------------------------------------------------------------------------------------------------- */

static void park(int channel)
{
	int rtnl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	char go;

	if (rtnl < 0)
		_exit(1);
	pass(channel, rtnl);
	close(rtnl);
	_exit(read(channel, &go, 1) < 0);		/* end of file when the parent is gone */
}

static pid_t clone_child(int *channel)
{
	struct clone_args args = { .flags = CLONE_NEWUSER | CLONE_NEWNET, .exit_signal = SIGCHLD };
	int ends[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		die("socketpair");
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		die("clone3");
	if (pid == 0) {
		close(ends[0]);
		park(ends[1]);
	}
	close(ends[1]);
	*channel = ends[0];
	return pid;
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

/* Root inside is this one id outside. Who does it to a child need not deny setgroups first: we are root around it. */
static void write_maps(const char *process, unsigned int uid, unsigned int gid)
{
	char path[64], text[32];

	snprintf(path, sizeof(path), "/proc/%s/uid_map", process);
	snprintf(text, sizeof(text), "0 %u 1\n", uid);
	write_text(path, text);
	snprintf(path, sizeof(path), "/proc/%s/gid_map", process);
	snprintf(text, sizeof(text), "0 %u 1\n", gid);
	write_text(path, text);
}

/* --- up and down ------------------------------------------------------------------------------------------------ */

struct container {
	pid_t pid;
	int channel, rtnl;
};

static void veth(int rtnl, int index, int bridge, pid_t pid)
{
	struct batch batch = { .len = 0 };
	struct rtattr *info, *data, *peer;
	struct ifinfomsg *inside;

	link_message(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, index, 1);
	put_text(&batch, IFLA_IFNAME, "floor-veth0");
	put_u32(&batch, IFLA_GROUP, GROUP);
	put_u32(&batch, IFLA_MASTER, bridge);
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
	put_u32(&batch, IFLA_NET_NS_PID, pid);
	end(&batch, peer);
	end(&batch, data);
	end(&batch, info);
	talk(rtnl, &batch, "veth");
}

static void bridge(int rtnl, int index)
{
	struct batch batch = { .len = 0 };
	struct rtattr *info;

	link_message(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, index, 1);
	put_text(&batch, IFLA_IFNAME, "floor-bridge");
	put_u32(&batch, IFLA_GROUP, GROUP);
	info = put(&batch, IFLA_LINKINFO, NULL, 0);
	put_text(&batch, IFLA_INFO_KIND, "bridge");
	end(&batch, info);
	address(&batch, index, "10.0.0.1");
	talk(rtnl, &batch, "bridge");
}

static void inside(int rtnl)
{
	struct batch batch = { .len = 0 };
	struct rtmsg *route;

	link_message(&batch, RTM_SETLINK, 0, LOOPBACK, 1);
	link_message(&batch, RTM_SETLINK, 0, INSIDE, 1);
	address(&batch, INSIDE, "10.0.0.2");
	route = message(&batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof(*route));
	route->rtm_family = AF_INET;
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_protocol = RTPROT_BOOT;
	route->rtm_scope = RT_SCOPE_UNIVERSE;
	route->rtm_type = RTN_UNICAST;
	put_ip(&batch, RTA_GATEWAY, "10.0.0.1");
	talk(rtnl, &batch, "container");
}

/*
 * Wait until the kernel has acted on the carrier that a link just got (Linux 6.8; before, this only asks). Without it
 * the setup is not done, since a bridge's port forwards only then.
 */
static void carrier(int rtnl, const char *ifname)
{
	struct ethtool_value value = { .cmd = ETHTOOL_GLINK };
	struct ifreq request = { .ifr_data = (void *)&value };

	strcpy(request.ifr_name, ifname);
	if (ioctl(rtnl, SIOCETHTOOL, &request) < 0)
		die("carrier");
}

static void up(int rtnl, struct container *container, struct laps *laps)
{
	static int index = 100;		/* new ones each time, as the kernel would choose them */
	char process[16];

	bridge(rtnl, index);
	lap(laps, "bridge");
	container->pid = clone_child(&container->channel);
	lap(laps, "clone");
	snprintf(process, sizeof(process), "%d", container->pid);
	write_maps(process, geteuid(), getegid());
	lap(laps, "maps");
	container->rtnl = take(container->channel);
	lap(laps, "socket");
	veth(rtnl, index + 1, index, container->pid);
	lap(laps, "veth");
	inside(container->rtnl);
	lap(laps, "container");
	carrier(container->rtnl, "eth0");
	carrier(rtnl, "floor-veth0");
	carrier(rtnl, "floor-bridge");
	lap(laps, "carrier");
	index += 2;
}

/* The links first: once its process ends, the kernel takes the namespace apart, and that may hold up the delete. */
static void down(int rtnl, struct container *container, struct laps *laps)
{
	struct batch batch = { .len = 0 };

	link_message(&batch, RTM_DELLINK, 0, 0, 0);
	put_u32(&batch, IFLA_GROUP, GROUP);
	talk(rtnl, &batch, "delete");
	lap(laps, "links");
	kill(container->pid, SIGKILL);
	waitpid(container->pid, NULL, 0);
	close(container->channel);
	close(container->rtnl);
	lap(laps, "process");
}

static void move_away(void)
{
	unsigned int uid = geteuid(), gid = getegid();

	if (unshare(CLONE_NEWNET) == 0)
		return;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		die("unshare");
	write_text("/proc/self/setgroups", "deny");
	write_maps("self", uid, gid);
}

int main(void)
{
	struct container container;
	struct laps laps;
	char line[16];
	int rtnl;

	move_away();
	rtnl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (rtnl < 0)
		die("socket");
	while (fgets(line, sizeof(line), stdin)) {
		start(&laps);
		(line[0] == 'u' ? up : down)(rtnl, &container, &laps);
		puts(laps.line);
		fflush(stdout);
	}
	return 0;
}
