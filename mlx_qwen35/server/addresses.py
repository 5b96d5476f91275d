"""Which addresses an image may be fetched from: those of the internet, and none of this machine or its network."""

import ipaddress
import queue
import socket
import threading

GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# `ipaddress` calls these global, in some versions at least; none of them is a public web server's.
SPECIAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; one cloud's metadata service
        "192.88.99.0/24",  # relays to 6to4
        "168.63.129.16/32",  # another cloud's own services, on every machine's link
        "2001::/23",  # Teredo, which holds an IPv4 address, and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4 holds an IPv4 address; relays are gone, so nothing public is lost
        "3fff::/20",
    )
)


def is_public(text: str) -> bool:
    """Whether an address is one of the internet's.

    IPv6 addresses that stand for an IPv4 one (mapped, or of a NAT64 gateway) are judged by that one.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            address = inner
        elif address not in GLOBAL_UNICAST:
            return False
    return (
        address.is_global and not address.is_multicast and not any(address in network for network in SPECIAL_NETWORKS)
    )


def resolve(host: str, port: int, seconds: float) -> list[str]:
    """A host's addresses, each once; none if it has none.

    Raises:
        TimeoutError: They did not come in time. The resolver itself cannot be stopped, and ends in a thread.
    """
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def look_up() -> None:
        found: list[str] = []
        try:
            found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, ValueError):
            pass
        finally:
            answers.put(found)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        return list(dict.fromkeys(answers.get(timeout=seconds)))
    except queue.Empty:
        raise TimeoutError(f"{host}: no addresses within {seconds:g} seconds") from None
