"""Who may use a server, and by which names; in: options of a command, out: access rules."""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import re
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeAlias
from urllib.parse import urlsplit

from embedsearch.core.errors import UsageError
from embedsearch.web.tokens import check_token

Network: TypeAlias = IPv4Network | IPv6Network

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
ANY_NAME = "*"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_WITH_PORT = re.compile(r"([^:]+|\[.*\]):(\d+)")
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_LOOK_UP_S = 1.0


@dataclass(frozen=True)
class Access:
    """Access rules: names of this host, a token if one is required, and the proxies in front."""

    hosts: frozenset[str] = LOCAL_HOSTS
    token: str | None = field(default=None, repr=False)
    any_address: bool = False  # an IP address cannot be made to mean another host, as a name can
    origin: str = ""  # of a proxy, such as https://example.org
    path: str = ""  # below which the proxy shows this server, such as /photos
    endings: tuple[str, ...] = ()  # of other names, such as .example.org; "" is every name
    proxies: tuple[Network, ...] = LOOPBACK  # they are believed whom they ask for

    def is_own(self, host: str) -> bool:
        """Return whether a host, in lower case and without its port, is this one."""
        host = host.removesuffix(".")
        if host in self.hosts or (self.any_address and _is_address(host)):
            return True
        return bool(self.endings) and bool(host) and host.endswith(self.endings)

    def client(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the address of a client, as the trusted proxies forwarded it.

        Each proxy appends the address that it was asked from to `X-Forwarded-For`: only the last
        one that no trusted proxy has was not written by the client itself.
        """
        found = peer
        hops = [hop.strip() for header in forwarded for hop in header.split(",")]
        while self._is_proxy(found) and hops:
            try:
                found = str(ip_address(hops.pop().strip("[]")))
            except ValueError:
                break
        return found

    def _is_proxy(self, address: str) -> bool:
        try:
            known = ip_address(address)
        except ValueError:
            return False
        known = getattr(known, "ipv4_mapped", None) or known
        return any(known in network for network in self.proxies)


def access(
    host: str,
    allowed: Sequence[str] = (),
    token: str | None = None,
    public_url: str | None = None,
    proxies: Sequence[str] = (),
) -> Access:
    """Return the access rules. Raises UsageError for a public host without a token.

    On all addresses of this machine, with a token, it answers to any IP address and to its names.
    """
    if found := _WITH_PORT.fullmatch(host):
        raise UsageError(
            f"host {host!r} has a port in it: give host={found[1]} and port={found[2]}",
            *("host", "port"),
        )
    if token is not None:
        check_token(token, "token", "token")
    elif not _is_local(host):
        raise UsageError(
            f"host {host} can be reached by others, so clients need a token: set "
            "EMBEDSEARCH_TOKEN, or give token_file=FILE, or token=auto to have one made",
            *("host", "token_file", "token"),
        )
    origin, path, public_host = _public(public_url)
    hosts, endings = _allowed(allowed, has_token=token is not None)
    if is_all := is_wildcard(host):
        hosts |= own_names()
    else:
        hosts |= {f"[{host}]" if ":" in host else host.lower()}
    return Access(
        LOCAL_HOSTS | hosts | public_host,
        token,
        is_all and token is not None,
        origin,
        path,
        endings,
        (*LOOPBACK, *map(_network, proxies)),
    )


def is_wildcard(host: str) -> bool:
    """Return whether a host means all addresses of this machine, however it is written."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(ip_address(str(place[0]).partition("%")[0]).is_unspecified for *_, place in found)


def own_names() -> frozenset[str]:
    """Return the names of this machine: its host name, short, local and as the network has it."""
    name = socket.gethostname()
    short = name.partition(".")[0]
    # In a thread: without a name server the look-up can take half a minute.
    whole: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: whole.put(socket.getfqdn(name)), daemon=True).start()
    names = [name, short, f"{short}.local"]
    with contextlib.suppress(queue.Empty):
        names.append(whole.get(timeout=_LOOK_UP_S))
    return frozenset(name.lower() for name in names)


def _allowed(names: Sequence[str], *, has_token: bool) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return names and endings of names that clients may use. Raises UsageError.

    A pattern that includes names which a stranger can register lets the stranger's web pages ask
    this server, by a name that means its address: it needs a token.
    """
    hosts: set[str] = set()
    endings: list[str] = []
    for given in names:
        name = given.lower()
        rest = name.removeprefix("*.").removesuffix(".")
        if name != ANY_NAME and not _is_address(name) and not _NAME.fullmatch(rest):
            raise UsageError(
                f"allow_host {given!r} is not a host name: give a name alone, as "
                "photos.example.org, a pattern as *.example.org, or *; without http:// and "
                "without a port",
                "allow_host",
            )
        if not name.startswith("*"):
            hosts.add(f"[{rest.strip('[]')}]" if ":" in rest else rest)
            continue
        if not has_token and (name == ANY_NAME or "." not in rest):
            raise UsageError(
                f"allow_host {given} needs a token, since it allows names that anybody can "
                "register: set EMBEDSEARCH_TOKEN, or name the hosts",
                "allow_host",
            )
        endings.append("" if name == ANY_NAME else f".{rest}")
    return frozenset(hosts), tuple(endings)


def _public(url: str | None) -> tuple[str, str, frozenset[str]]:
    """Return origin, path and host name of the address that a proxy has. Raises UsageError."""
    if url is None:
        return "", "", frozenset()
    said, fields = f"public_url, or root_path, {url!r}", ("public_url", "root_path")
    wanted = "give an address such as https://example.org/photos/, or its path, as /photos"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError
    except ValueError as error:
        raise UsageError(f"{said}: {error}; {wanted}", *fields) from error
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    path = parts.path.rstrip("/")
    if is_plain and url.startswith("/") and not parts.netloc:
        return "", path, frozenset()
    if parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain:
        raise UsageError(f"{said}: {wanted}", *fields)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = {"http": ":80", "https": ":443"}[parts.scheme]  # a browser leaves it out
    netloc = parts.netloc.lower().removesuffix(port)
    return f"{parts.scheme}://{netloc}", path, frozenset({host})


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(
            f"trusted_proxy {text!r} is not an address: give one as 10.0.0.5, or a network as "
            "10.0.0.0/8",
            "trusted_proxy",
        ) from error


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_local(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
