"""Who may look at a fleet over HTTP, and steer it.

1. A loopback address needs no token; there the name in ``Host`` must be a loopback one, so that a
   page whose own name was pointed at this machine (DNS rebinding) gets nothing.
2. Any other address, or where a token is given, asks for it: ``Authorization: Bearer``, or
   ``?token=`` once, for which a browser gets a cookie. The cookie is not the token but follows from
   it, so a browser's store does not give it away. By what name the machine is called we cannot know
   then, and need not: a rebound page has no cookie.
3. Whatever comes from a page of another origin is refused, reading as well as steering.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from firmware_node.errors import ConfigError

COOKIE: Final = "firmware_node_fleet"
TOKEN_LENGTH_MIN: Final = 16  # characters; shorter ones can be guessed over a network
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SAME_SITE: Final = frozenset({"same-origin", "none"})  # ``none``: typed, or a bookmark


class Guard:
    """The rules for one address.

    Raises:
        ConfigError: an address others can reach and no token, or a short one.
    """

    def __init__(self, host: str, token: str | None) -> None:
        if token is None and not is_loopback(host):
            raise ConfigError(f"{host}: an address that others can reach needs a token")
        if token is not None and len(token) < TOKEN_LENGTH_MIN:
            raise ConfigError(
                f"token: expected {TOKEN_LENGTH_MIN} characters or more, found {len(token)}"
            )
        self._token = token
        self.cookie = "" if token is None else _digest(token)

    def refuses(self, headers: Mapping[str, str]) -> str | None:
        """Why nobody gets anything who asks like this, whatever token they have; None: go on."""
        host = headers.get("Host", "")
        if self._token is None and _name_of(host) not in _LOOPBACK_NAMES:
            return "the name in Host is not one of this machine"
        origin = headers.get("Origin")
        if origin is not None and _address_of(origin) != host.lower():
            return "a page of another origin asked"
        if origin is None and headers.get("Sec-Fetch-Site", "none") not in _SAME_SITE:
            return "a page of another site asked"
        return None

    def knows(self, headers: Mapping[str, str], cookie: str | None) -> bool:
        """Whether who asks has the token, or needs none."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        return cookie is not None and _same(cookie, self.cookie)

    def is_token(self, given: str) -> bool:
        """Compared in a time that tells nothing."""
        return self._token is not None and _same(given, self._token)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; of names, ``localhost`` alone is known."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> str:
    return hmac.new(token.encode(), b"firmware_node fleet cookie", hashlib.sha256).hexdigest()


def _same(left: str, right: str) -> bool:
    """Octets of a header that are no UTF-8 come as surrogates."""
    return hmac.compare_digest(
        left.encode(errors="surrogateescape"), right.encode(errors="surrogateescape")
    )


def _address_of(origin: str) -> str | None:
    """Name and port of an ``Origin``; None: it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name_of(host: str) -> str:
    """The name in a ``Host`` header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
