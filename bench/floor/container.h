/*
 * What a container is made of: a child in namespaces, its id maps, a bridge, a veth pair, the container's end, carrier.
 *
 * Each part is one exchange with the kernel, written once for all floors that set a container up. Knows rtnetlink as
 * bytes; refuses to know in which order the parts come, what runs beside what (that is what the floors differ in), and
 * nsnet (nothing is shared with csrc/). For programs with one thread.
 */
#ifndef CONTAINER_H
#define CONTAINER_H

#include <linux/ethtool.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "floor.h"

#define GROUP 4711		/* of our links; never 0, which is every link's */
#define INSIDE 1000		/* the ifindex of eth0: above tunl0 and the like, which appear in every namespace */
#define LOOPBACK 1
#define BRIDGE "floor-bridge"
#define HOST_END "floor-veth0"
#define DEFAULT_QUEUES 0	/* one for each CPU */

struct container {
	pid_t pid;
	int channel, rtnl;
};

/* --- the child -------------------------------------------------------------------------------------------------- */

static inline int route_socket(void)
{
	return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

/* Stay until the parent says a byte, or is gone. */
static inline void park(int channel)
{
	char go;

	_exit(read(channel, &go, 1) < 0);
}

static inline void hand_over_and_park(int channel)
{
	int rtnl = route_socket();

	if (rtnl < 0)
		_exit(1);
	pass(channel, rtnl);
	close(rtnl);
	park(channel);
}

static inline void channel_of(struct container *container, int ends[2])
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		die("socketpair");
	container->channel = ends[0];
}

/* A child in new namespaces, which does `work`; that does not return. */
static inline void clone_child(struct container *container, uint64_t namespaces, void (*work)(int channel))
{
	struct clone_args args = { .flags = namespaces, .exit_signal = SIGCHLD };
	int ends[2];

	channel_of(container, ends);
	container->pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (container->pid < 0)
		die("clone3");
	if (container->pid == 0) {
		close(ends[0]);
		work(ends[1]);
	}
	close(ends[1]);
}

static inline void end_child(struct container *container)
{
	kill(container->pid, SIGKILL);
	waitpid(container->pid, NULL, 0);
	close(container->channel);
	close(container->rtnl);
}

/* --- id maps ---------------------------------------------------------------------------------------------------- */

static inline void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

/* Root inside is this one id outside. Who does it to a child need not deny setgroups first: we are root around it. */
static inline void write_maps(const char *process, unsigned int uid, unsigned int gid)
{
	char path[64], text[32];

	snprintf(path, sizeof(path), "/proc/%s/uid_map", process);
	snprintf(text, sizeof(text), "0 %u 1\n", uid);
	write_text(path, text);
	snprintf(path, sizeof(path), "/proc/%s/gid_map", process);
	snprintf(text, sizeof(text), "0 %u 1\n", gid);
	write_text(path, text);
}

static inline void map_child(const struct container *container)
{
	char process[16];

	snprintf(process, sizeof(process), "%d", container->pid);
	write_maps(process, geteuid(), getegid());
}

/* --- namespaces ------------------------------------------------------------------------------------------------- */

/* Leave the network that we were started in: for one of our user namespace, or of a new one if that is denied. */
static inline void move_away(void)
{
	unsigned int uid = geteuid(), gid = getegid();

	if (unshare(CLONE_NEWNET) == 0)
		return;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		die("unshare");
	write_text("/proc/self/setgroups", "deny");
	write_maps("self", uid, gid);
}

static inline int open_netns(const char *process)
{
	char path[64];
	int netns;

	snprintf(path, sizeof(path), "/proc/%s/ns/net", process);
	netns = open(path, O_RDONLY | O_CLOEXEC);
	if (netns < 0)
		die(path);
	return netns;
}

static inline void enter(int netns)
{
	if (setns(netns, CLONE_NEWNET) < 0)
		die("setns");
}

/* --- links ------------------------------------------------------------------------------------------------------ */

static inline void put_queues(struct batch *batch, int queues)
{
	if (queues == DEFAULT_QUEUES)
		return;
	put_u32(batch, IFLA_NUM_TX_QUEUES, queues);
	put_u32(batch, IFLA_NUM_RX_QUEUES, queues);
}

/* One end of a pair is a port of the bridge and up, the other is born elsewhere. `where`: IFLA_NET_NS_PID or _FD. */
static inline void put_veth(struct batch *batch, const char *ifname, int index, int bridge, int queues, int where,
			    int netns)
{
	struct rtattr *info, *data, *peer;
	struct ifinfomsg *inside;

	link_message(batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, index, bridge != 0);
	put_text(batch, IFLA_IFNAME, ifname);
	put_u32(batch, IFLA_GROUP, GROUP);
	if (bridge)
		put_u32(batch, IFLA_MASTER, bridge);
	put_queues(batch, queues);
	info = put(batch, IFLA_LINKINFO, NULL, 0);
	put_text(batch, IFLA_INFO_KIND, "veth");
	data = put(batch, IFLA_INFO_DATA, NULL, 0);
	peer = put(batch, VETH_INFO_PEER, NULL, 0);
	inside = reserve(batch, sizeof(*inside));
	inside->ifi_index = INSIDE;
	put_text(batch, IFLA_IFNAME, "eth0");
	put_queues(batch, queues);
	put_u32(batch, where, netns);
	end(batch, peer);
	end(batch, data);
	end(batch, info);
}

static inline void make_veth(int rtnl, int index, int bridge, int queues, int where, int netns)
{
	struct batch batch = { .len = 0 };

	put_veth(&batch, HOST_END, index, bridge, queues, where, netns);
	talk(rtnl, &batch, "veth");
}

static inline void put_bridge(struct batch *batch, int index, int up)
{
	struct rtattr *info;

	link_message(batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, index, up);
	put_text(batch, IFLA_IFNAME, BRIDGE);
	put_u32(batch, IFLA_GROUP, GROUP);
	info = put(batch, IFLA_LINKINFO, NULL, 0);
	put_text(batch, IFLA_INFO_KIND, "bridge");
	end(batch, info);
}

static inline void make_bridge(int rtnl, int index)
{
	struct batch batch = { .len = 0 };

	put_bridge(&batch, index, 1);
	address(&batch, index, "10.0.0.1");
	talk(rtnl, &batch, "bridge");
}

/* No IPv6 link-local address, hence none of the multicast that a link sends for one when it comes up. */
static inline void put_quiet(struct batch *batch, int index)
{
	unsigned char mode = IN6_ADDR_GEN_MODE_NONE;
	struct rtattr *spec, *inet6;

	link_message(batch, RTM_SETLINK, 0, index, 0);
	spec = put(batch, IFLA_AF_SPEC, NULL, 0);
	inet6 = put(batch, AF_INET6, NULL, 0);
	put(batch, IFLA_INET6_ADDR_GEN_MODE, &mode, sizeof(mode));
	end(batch, inet6);
	end(batch, spec);
}

static inline void put_route(struct batch *batch)
{
	struct rtmsg *route = message(batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof(*route));

	route->rtm_family = AF_INET;
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_protocol = RTPROT_BOOT;
	route->rtm_scope = RT_SCOPE_UNIVERSE;
	route->rtm_type = RTN_UNICAST;
	put_ip(batch, RTA_GATEWAY, "10.0.0.1");
}

/* The container's end: lo, eth0, its address, its default route. `quiet`: link-local addresses off first. */
static inline void make_inside(int rtnl, const char *ip, int quiet)
{
	struct batch batch = { .len = 0 };

	link_message(&batch, RTM_SETLINK, 0, LOOPBACK, 1);
	if (quiet)
		put_quiet(&batch, INSIDE);
	link_message(&batch, RTM_SETLINK, 0, INSIDE, 1);
	address(&batch, INSIDE, ip);
	put_route(&batch);
	talk(rtnl, &batch, "container");
}

/*
 * Wait until the kernel has acted on the carrier that a link just got (Linux 6.8; before, this only asks). Without it
 * the setup is not done, since a bridge's port forwards only then.
 */
static inline void carrier(int rtnl, const char *ifname)
{
	struct ethtool_value value = { .cmd = ETHTOOL_GLINK };
	struct ifreq request = { .ifr_data = (void *)&value };

	strcpy(request.ifr_name, ifname);
	if (ioctl(rtnl, SIOCETHTOOL, &request) < 0)
		die("carrier");
}

static inline void all_carriers(int rtnl, int inside)
{
	carrier(inside, "eth0");
	carrier(rtnl, HOST_END);
	carrier(rtnl, BRIDGE);
}

/* One delete of all links of our group, which waits for the kernel once. */
static inline void delete_group(int rtnl)
{
	struct batch batch = { .len = 0 };

	link_message(&batch, RTM_DELLINK, 0, 0, 0);
	put_u32(&batch, IFLA_GROUP, GROUP);
	talk(rtnl, &batch, "delete");
}

static inline void delete_link(int rtnl, int index)
{
	struct batch batch = { .len = 0 };

	link_message(&batch, RTM_DELLINK, 0, index, 0);
	talk(rtnl, &batch, "delete");
}

/* --- questions and answers -------------------------------------------------------------------------------------- */

/* Where to look: this process's namespace is the host's, the child's (or `netns`, held here) the container's. */
static inline void say_where(const struct container *container, int netns)
{
	if (netns >= 0)
		printf("%d %d fd %d\n\n", getpid(), getpid(), netns);
	else
		printf("%d %d\n\n", getpid(), container->pid);
}

static inline int is(const char *line, const char *word)
{
	size_t len = strlen(word);

	return strncmp(line, word, len) == 0 && line[len] == '\n';
}

#endif
