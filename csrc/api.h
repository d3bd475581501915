/*
 * The whole contract between C and Python. cffi reads this text as it stands and so does gcc: no preprocessor lines.
 *
 * Every function returns >= 0 or -errno, prints nothing, and keeps no state of its own. Structures are owned by the
 * caller. Where a function can fail at more than one step, it leaves the step in the structure.
 */

/* Where something failed. Python turns the names into words: NSNET_STEP_UID_MAP is "uid_map". */
enum nsnet_step {
	NSNET_STEP_NONE,
	NSNET_STEP_READY,		/* no failure: the child is parked and waits for go */
	NSNET_STEP_USERNS,		/* no failure: its user namespace is there, and waits for maps */
	NSNET_STEP_MOVED,		/* no failure: it is another process from now on */
	NSNET_STEP_IMAGE,		/* the file of this module cannot be executed */
	NSNET_STEP_CLONE3,
	NSNET_STEP_PROC,		/* /proc/PID cannot be opened, or is not procfs */
	NSNET_STEP_SETGROUPS_DENY,
	NSNET_STEP_UID_MAP,
	NSNET_STEP_GID_MAP,
	NSNET_STEP_SETNS,
	NSNET_STEP_UNSHARE,
	NSNET_STEP_SOCKET,		/* the socket opened inside the namespace */
	NSNET_STEP_LOOPBACK,
	NSNET_STEP_HOSTNAME,
	NSNET_STEP_MOUNTS,		/* the propagation of its mounts */
	NSNET_STEP_MOUNT_PROC,
	NSNET_STEP_HANDOVER,		/* the channel between child and parent */
	NSNET_STEP_DESCRIPTORS,
	NSNET_STEP_SETGROUPS,
	NSNET_STEP_SETGID,
	NSNET_STEP_SETUID,
	NSNET_STEP_SETSID,
	NSNET_STEP_KEYRING,
	NSNET_STEP_OOM_SCORE_ADJ,
	NSNET_STEP_CHDIR,
	NSNET_STEP_UMASK,
	NSNET_STEP_CAPABILITIES,
	NSNET_STEP_NO_NEW_PRIVS,
	NSNET_STEP_PDEATHSIG,
	NSNET_STEP_SIGNALS,
	NSNET_STEP_THREAD,
	NSNET_STEP_EXECVE		/* with no error: it is about to */
};

/* netlink.c ------------------------------------------------------------------------------------------------------ */

/* One batch: what to send, and the room for what comes back. Sequence numbers run from first_seq to last_seq, and the
 * last message carries NLM_F_ACK (or is a dump), so that its answer ends the talk. */
struct nsnet_talk {
	const uint8_t *request;
	size_t request_len;
	uint32_t port;			/* ours: what answers carry as nlmsg_pid */
	uint32_t first_seq;
	uint32_t last_seq;
	uint8_t *reply;			/* netlink messages of this talk, as received */
	size_t reply_size;
	size_t reply_len;
	int64_t deadline;		/* CLOCK_MONOTONIC, nanoseconds */
	int sent;			/* set when the kernel has taken the request */
};

enum nsnet_talk_status {
	NSNET_TALK_DONE,
	NSNET_TALK_MORE_ROOM		/* call again with a larger reply buffer */
};

int nsnet_nl_open(int protocol);
int nsnet_nl_prepare(int fd, uint32_t *port);
int nsnet_nl_talk(int fd, struct nsnet_talk *talk);
int nsnet_nl_talks(const int *fds, struct nsnet_talk *talks, size_t count, size_t *done);
int nsnet_nl_drain(int fd);
int nsnet_nl_carrier(int fd, const char *ifname);
int nsnet_nl_index(const char *data, size_t len, size_t start, uint32_t *places, size_t count);

/* spawn.c -------------------------------------------------------------------------------------------------------- */

struct nsnet_fd_move {
	int source;
	int target;
	int aside;			/* filled in by C */
};

struct nsnet_ns_join {
	int fd;
	int type;			/* CLONE_NEW* */
	int inside;			/* filled in by C */
};

struct nsnet_rlimit {
	int resource;
	uint64_t soft;
	uint64_t hard;
};

/* One file of /proc/sys/net, which shows the network namespace of whoever opens, reads and writes it. */
struct nsnet_sysctl {
	const char *path;		/* where it begins and that nothing leads out of it is the caller's to check */
	const char *value;		/* to be written; NULL: it is read */
	char *room;			/* for what is read, which has to be less than this */
	size_t size;
	int64_t result;			/* the bytes read, 0 of one that is written, or -errno */
};

/* What a command gets, and who it is. */
struct nsnet_command {
	const char *const *paths;	/* candidates for execve, tried in this order */
	size_t n_paths;
	char *const *argv;
	char *const *envp;		/* in nsnet_spawn(): envp[-1] is room for one more */
	const char *cwd;		/* NULL: inherit */
	int cwd_fd;			/* in nsnet_give(): the caller's directory, if the slot is in another; else -1 */
	struct nsnet_fd_move *moves;	/* the only descriptors it keeps; sorted by target */
	size_t n_moves;
	int umask;			/* -1: inherit */
	int set_ids;			/* become uid and gid (inside) */
	uint32_t uid;
	uint32_t gid;
	int set_groups;			/* setgroups(n_groups, groups) */
	const uint32_t *groups;
	size_t n_groups;
	int drop_bounding;
	uint64_t capabilities;		/* exactly these, in all five sets */
	int no_new_privs;
	int new_session;
	int new_keyring;
	int pdeathsig;			/* 0: none */
	const char *oom_score_adj;	/* in nsnet_give(): what the slot writes itself; NULL: inherit */
	int waits;			/* in nsnet_give(): the slot parks again with it, until nsnet_go() */
};

struct nsnet_spawn {
	/* how it is made */
	int image_fd;			/* the file of this module, which is executed in the child; -1: copy the memory */
	int cgroup_fd;			/* -1: the parent's cgroup */
	const struct nsnet_rlimit *stack_limit;	/* set before the first execve, whose arguments it bounds; NULL: inherit */
	const char *oom_score_adj;	/* in the format of /proc/PID/oom_score_adj; NULL: inherit */
	int slot;			/* it is parked without a command, which nsnet_give() brings */

	/* namespaces */
	struct nsnet_ns_join *joins;	/* entered first; a user namespace before the others where that helps */
	size_t n_joins;
	uint64_t new_flags;		/* CLONE_NEW* */
	int moves_pid;			/* by a second clone, as joined and new pid namespaces and new time namespaces need it */
	const char *uid_map;		/* written by the child itself, in CLONE_NEWUSER; NULL: the parent is asked to */
	const char *gid_map;
	int socket_family;		/* a socket to be opened in there and passed up; -1: none */
	int socket_type;
	int socket_protocol;
	size_t more_netns;		/* that many, one after the other, each with a socket and a report of its own */
	int loopback;			/* set lo up; needs the socket */
	struct nsnet_sysctl *sysctls;	/* read or written there; the results come behind the report that it is ready */
	size_t n_sysctls;
	int private_mounts;		/* in CLONE_NEWNS: nothing comes in from outside, nothing goes out */
	int mount_proc;			/* a /proc of the new pid namespace */
	const char *hostname;		/* NULL: as it is */

	struct nsnet_command command;	/* of a slot only argv and envp, by which others see it */

	/* results; descriptors are -1 until there is one, and the job's to close */
	int stage;			/* enum nsnet_stage */
	int pid;
	int pidfd;
	int channel;			/* our end: reports come up, "go" goes down, end of file is exec or death */
	int passed_fd;			/* what came with the last report */
	size_t given;			/* bytes of a slot's command that have been sent */
	int parent_fd;			/* the child's own: a pidfd of its parent */
	int moved;			/* whether the second clone has been heard of */
	int owner;			/* the pid of the process that has to do with it */
	int step;			/* where it failed */
	int ended;			/* 1: collected, see status; 2: collected by somebody else, who knows the status */
	int status;			/* its exit status, or minus the signal that ended it */
	uint64_t permitted;		/* the caller's capabilities, which an image is to have again */
	uint64_t effective;
};

enum nsnet_stage {
	NSNET_STAGE_NONE,
	NSNET_STAGE_CHILD,		/* there is one; if it is dropped it has to end */
	NSNET_STAGE_GOING,		/* it was told to go */
	NSNET_STAGE_EXECVE,		/* it has said that it is about to */
	NSNET_STAGE_RUNNING
};

/* What the child says. The child that comes to a namespace by a second clone says so with NSNET_STEP_MOVED, the pidfd and the
 * pid of its second self, and ends. */
struct nsnet_report {
	int step;
	int error;			/* errno, positive; 0: it has come that far */
	int pid;
};

int nsnet_has_image(void);
int nsnet_capabilities(uint64_t *effective);
int nsnet_spawn(struct nsnet_spawn *job);
int nsnet_write_maps(int pid, int deny_setgroups, const char *uid_map, const char *gid_map, int *step);
int nsnet_write_oom_score_adj(int pid, const char *value, int *step);
int nsnet_receive(struct nsnet_spawn *job, struct nsnet_report *report);
int nsnet_give(struct nsnet_spawn *job, const struct nsnet_command *command);
int nsnet_go(struct nsnet_spawn *job, struct nsnet_report *report);
int nsnet_collect(struct nsnet_spawn *job);
int nsnet_end(struct nsnet_spawn *job);
void nsnet_drop(struct nsnet_spawn *job);

/* visit.c -------------------------------------------------------------------------------------------------------- */

/* What a thread or a child does inside another network namespace, in our stead: open a socket, which is returned, or read and
 * write sysctls; then 0. One that cannot be written ends that: those behind it are left alone, and so are their results. */
struct nsnet_visit {
	int image_fd;			/* as above */
	int userns_fd;			/* enter this user namespace first; -1: stay in ours */
	int netns_fd;			/* enter this network namespace; -1: make a new one */
	int new_userns;			/* make a user namespace to own the new network namespace */
	const char *uid_map;		/* for new_userns, in the format of /proc/PID/uid_map */
	const char *gid_map;
	int family;			/* -1: no socket */
	int type;
	int protocol;
	struct nsnet_sysctl *sysctls;
	size_t n_sysctls;
	int step;
};

enum nsnet_limit {
	NSNET_MOST_THREADS = 16
};

/* Visits to as many new network namespaces, one after another, by threads or by one child, while the caller does something
 * else. Each is known by its socket alone, which keeps it. One thread takes the sockets; whoever drops this, closes those that
 * were not taken. */
struct nsnet_visits {
	struct nsnet_visit visit;	/* with netns_fd -1 and no sysctls */
	size_t count;
	int *sockets;			/* what the threads have made, -1 elsewhere; NULL before and after, and with a child */
	size_t n_threads;		/* wanted; then, how many there are; 0 of a child */
	uintptr_t threads[NSNET_MOST_THREADS];
	size_t begun;			/* how many the threads have set about */
	uint32_t done;			/* and come to an end with: what is waited for */
	size_t taken;
	int stop;
	int failed;			/* by which of them it is that there is an error */
	int error;			/* -errno */
	int step;			/* where it failed */
	struct nsnet_spawn child;
	int owner;			/* the pid of the process whose threads they are; 0: not begun */
};

int nsnet_visit(struct nsnet_visit *visit);
int nsnet_visits_begin(struct nsnet_visits *visits);
int nsnet_visits_take(struct nsnet_visits *visits);
void nsnet_visits_drop(struct nsnet_visits *visits);
void nsnet_sysctls(struct nsnet_sysctl *rows, size_t count);

/* mounts.c ------------------------------------------------------------------------------------------------------- */

int nsnet_mount(const char *source, const char *target, unsigned long flags);
int nsnet_umount(const char *target);
