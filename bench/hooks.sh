#!/bin/sh
# The seed's pre-start hooks, one program for each step, as people have them in scripts. brctl where it is installed.
# Usage: hooks.sh PID BRIDGE HOST_IFNAME IFNAME LLADDR
set -e
pid=$1 bridge=$2 veth0=$3 veth1=$4 lladdr=$5
inside() { nsenter -t "$pid" -U --preserve-credentials -n "$@"; }

if command -v brctl >/dev/null; then brctl addbr "$bridge"; else ip link add "$bridge" type bridge; fi          # 1
ip addr add 10.0.0.1/24 broadcast 10.0.0.255 dev "$bridge"                                                      # 2
ip link set dev "$bridge" up                                                                                    # 3
ip link add "$veth0" type veth peer name "$veth1"                                                               # 4
if command -v brctl >/dev/null; then brctl addif "$bridge" "$veth0"; else ip link set "$veth0" master "$bridge"; fi
ip link set dev "$veth0" up                                                                                     # 5
ip link set "$veth1" netns "$pid"                                                                               # 6
inside ip link set dev lo up                                                                                    # 8
inside ip addr add 10.0.0.2/24 broadcast 10.0.0.255 dev "$veth1"                                                # 9
inside ip link set dev "$veth1" address "$lladdr" up                                                            # 10
inside ip route add default via 10.0.0.1                                                                        # 11
