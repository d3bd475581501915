"""Queueing disciplines, classes and filters: those that a container network uses.

Data only. <linux/rtnetlink.h>, <linux/pkt_sched.h>, <linux/pkt_cls.h>, <linux/gen_stats.h>; the policies in net/sched.
Rates are bytes per second, times are ticks of 64 ns (PSCHED_SHIFT 6).
"""

from nsnet.tables import Attr, Choice, Layout, Table, nested
from nsnet.wire import Fixed, array, flag, raw, record, strz, u8, u16, u32, u64

TCMSG = Fixed("tcmsg", "BxxxiIII", "family", "ifindex", "handle", "parent", "info")

_RATE = ("cell_log", "linklayer", "overhead", "cell_align", "mpu", "rate")      # struct tc_ratespec


def _rate(prefix: str):
    return tuple(f"{prefix}_{field}" for field in _RATE)


TBF = Table(                        # tbf_policy, net/sched/sch_tbf.c
    "TCA_TBF",
    parms=Attr(1, record(Fixed("tc_tbf_qopt", "BBHhHI" "BBHhHI" "III", *_rate("rate"), *_rate("peakrate"), "limit",
                               "buffer", "mtu"))),
    rtab=Attr(2, raw),
    ptab=Attr(3, raw),
    rate64=Attr(4, u64),
    prate64=Attr(5, u64),
    burst=Attr(6, u32),
    pburst=Attr(7, u32),
)
HTB = Table(                        # htb_policy, net/sched/sch_htb.c
    "TCA_HTB",
    parms=Attr(1, record(Fixed("tc_htb_opt", "BBHhHI" "BBHhHI" "IIIII", *_rate("rate"), *_rate("ceil"), "buffer",
                               "cbuffer", "quantum", "level", "prio"))),
    init=Attr(2, record(Fixed("tc_htb_glob", "IIIII", "version", "rate2quantum", "defcls", "debug", "direct_pkts"))),
    ctab=Attr(3, raw),
    rtab=Attr(4, raw),
    direct_qlen=Attr(5, u32),
    rate64=Attr(6, u64),
    ceil64=Attr(7, u64),
    offload=Attr(9, flag),
)
POLICE = Table(                     # police_policy, net/sched/act_police.c
    "TCA_POLICE",
    tbf=Attr(1, record(Fixed("tc_police", "IiIII" "BBHhHI" "BBHhHI" "iiI", "index", "action", "limit", "burst", "mtu",
                             *_rate("rate"), *_rate("peakrate"), "refcnt", "bindcnt", "capab"))),
    rate=Attr(2, raw),              # the rate table, 256 times u32
    peakrate=Attr(3, raw),
    avrate=Attr(4, u32),
    result=Attr(5, u32),
    tm=Attr(6, raw),
    rate64=Attr(8, u64),
    peakrate64=Attr(9, u64),
    pktrate64=Attr(10, u64),
    pktburst64=Attr(11, u64),
)
# What is compared is in network byte order: offmask, hmask, and a key's mask and val are kept as the machine reads them.
U32_SEL = Fixed("tc_u32_sel", "BBBxHHhhI", "flags", "offshift", "nkeys", "offmask", "off", "offoff", "hoff", "hmask")
U32_KEY = Fixed("tc_u32_key", "IIii", "mask", "val", "off", "offmask")
U32 = Table(                        # u32_policy, net/sched/cls_u32.c
    "TCA_U32",
    classid=Attr(1, u32),
    hash=Attr(2, u32),
    link=Attr(3, u32),
    divisor=Attr(4, u32),
    sel=Attr(5, array(U32_KEY, U32_SEL)),
    police=Attr(6, nested(POLICE)),
    act=Attr(7, raw),
    indev=Attr(8, strz),
    pcnt=Attr(9, raw),
    mark=Attr(10, record(Fixed("tc_u32_mark", "III", "val", "mask", "success"))),
    flags=Attr(11, u32),
)
BPF = Table(                        # bpf_policy, net/sched/cls_bpf.c
    "TCA_BPF",
    act=Attr(1, raw),
    police=Attr(2, nested(POLICE)),
    classid=Attr(3, u32),
    ops_len=Attr(4, u16),
    ops=Attr(5, raw),
    fd=Attr(6, u32),
    name=Attr(7, strz),
    flags=Attr(8, u32),
    flags_gen=Attr(9, u32),
    tag=Attr(10, raw),
    id=Attr(11, u32),
)
STATS2 = Table(
    "TCA_STATS",
    basic=Attr(1, record(Fixed("gnet_stats_basic", "QIxxxx", "bytes", "packets"), grows=True)),
    rate_est=Attr(2, record(Fixed("gnet_stats_rate_est", "II", "bps", "pps"))),
    queue=Attr(3, record(Fixed("gnet_stats_queue", "IIIII", "qlen", "backlog", "drops", "requeues", "overlimits"))),
    app=Attr(4, raw),
    rate_est64=Attr(5, record(Fixed("gnet_stats_rate_est64", "QQ", "bps", "pps"))),
    basic_hw=Attr(7, raw),
    pkt64=Attr(8, u64),
)
TC = Table(
    "TCA",
    kind=Attr(1, strz),
    options=Attr(2, Choice("kind", tbf=nested(TBF), htb=nested(HTB), u32=nested(U32), bpf=nested(BPF))),
    stats=Attr(3, raw),
    xstats=Attr(4, raw),
    rate=Attr(5, raw),
    fcnt=Attr(6, raw),
    stats2=Attr(7, nested(STATS2)),
    stab=Attr(8, raw),
    dump_invisible=Attr(10, flag),
    chain=Attr(11, u32),
    hw_offload=Attr(12, u8),
    ingress_block=Attr(13, u32),
    egress_block=Attr(14, u32),
    dump_flags=Attr(15, raw),
    ext_warn_msg=Attr(16, strz),
)
TC_BODY = Layout(TCMSG, TC)

__all__ = [name for name in globals() if name.isupper() and not name.startswith("_")]
