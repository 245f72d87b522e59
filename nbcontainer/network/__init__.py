"""Networks of containers. All of a kernel's lie in one network namespace of their own, the *router*, which a helper process holds.

    host ── uplink ── router: bridge nbc0 ── veth ── eth0 of a container
                              bridge nbc1 ── veth ── eth0 or eth1 of a container

Why bridges are not made in the host's own namespace, as Docker does: whatever lies in a namespace goes with it. When the kernel or
the helper is killed, Linux takes bridges, veth pairs, addresses, routes and rules away, and there is nothing to sweep; forwarding can be switched on without making a router of the
host; names, ports and subnets of the host are not in the way; and an ordinary user, who may do nothing in the host's
namespace, may do everything in this one.

Modules: ``client`` is the kernel's end, ``router`` the helper; ``netlink`` speaks with Linux (with pyroute2's messages); ``links``
and ``firewall`` say what there is to be; ``subnets`` chooses addresses; ``uplink`` is the way out; ``resolver`` answers for names;
``forward`` carries published ports; ``picture`` draws.
"""
