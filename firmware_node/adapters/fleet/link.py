"""A connection to the broker that comes back by itself.

MQTT 5, QoS 1, a clean start every time: nothing waits for us in the broker. Whoever owns a link
says everything again when it is up (``on_up``), and what was published while it was down is gone;
retained states and acknowledged streams are made for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from firmware_node.errors import ConfigError
from firmware_node.fleet.bus import IMAGE_MAX
from firmware_node.fleet.streams import Backoff

KEEPALIVE_S: Final = 15  # a broker tells of a host that vanished within one and a half of it
TIMEOUT_S: Final = 10  # for an answer of the broker
STEADY_S: Final = 10  # a connection that lasted so long was a good one
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and how it knows us. Secrets are files, or credentials of systemd."""

    url: str  # mqtt://HOST:PORT or mqtts://HOST:PORT
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None  # default: the authorities that the system trusts
    certificate_file: Path | None = None
    key_file: Path | None = None

    def address(self) -> tuple[str, int, bool]:
        """Host, port, whether TLS.

        Raises:
            ConfigError: the URL is none, or a password would go over the network in the clear.
        """
        try:
            parts = urllib.parse.urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"broker.url: {error}") from error
        plain = parts.scheme in ("mqtt", "mqtts") and not (parts.path or parts.query)
        if not plain or not parts.hostname or parts.username or parts.password:
            raise ConfigError("broker.url: expected mqtt://HOST:PORT or mqtts://HOST:PORT")
        is_tls = parts.scheme == "mqtts"
        if self.password_file and not is_tls and parts.hostname not in _LOOPBACK:
            raise ConfigError("broker.url: a password goes through mqtts:// alone")
        return parts.hostname, port or (8883 if is_tls else 1883), is_tls

    def password(self) -> str | None:
        """The first line of the password file."""
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").splitlines()[0]
        except (OSError, ValueError, IndexError) as error:
            raise ConfigError(f"{self.password_file}: holds no password") from error

    def tls(self) -> ssl.SSLContext | None:
        """What the connection is wrapped in."""
        if not self.address()[2]:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except OSError as error:  # SSLError is one
            raise ConfigError(f"broker: its certificates cannot be used ({error})") from error
        return context


class Incoming(NamedTuple):
    """A message that came."""

    topic: str
    payload: bytes
    response_topic: str | None
    correlation: bytes | None


class Link:
    """See the module. ``on_message`` must not wait; ``on_up`` may, and may publish."""

    def __init__(
        self,
        broker: Broker,
        identifier: str,
        topics: Sequence[str],
        *,
        on_message: Callable[[Incoming], None],
        on_up: Callable[[], Awaitable[None]],
        will: tuple[str, bytes] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._broker = broker
        self._identifier = identifier
        self._topics = list(topics)
        self._on_message = on_message
        self._on_up = on_up
        self._will = will
        self._backoff = Backoff(draw)
        self._client: aiomqtt.Client | None = None

    @property
    def url(self) -> str:
        """Of the broker."""
        return self._broker.url

    @property
    def is_up(self) -> bool:
        """Whether the broker hears us."""
        return self._client is not None

    async def run(self) -> None:
        """Be connected, again and again, until cancelled.

        Raises:
            ConfigError: the broker's address or secrets are wrong.
        """
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                await self._connected()
            except (aiomqtt.MqttError, OSError) as error:
                _log.warning("broker %s: %s", self._broker.url, error)
            finally:
                self._client = None
            if loop.time() - began_s >= STEADY_S:
                self._backoff.reset()
            wait_s = self._backoff.next_s()
            _log.debug("broker %s: again in %.1f s", self._broker.url, wait_s)
            await asyncio.sleep(wait_s)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        response_topic: str | None = None,
        correlation: bytes | None = None,
    ) -> bool:
        """Whether the broker has it."""
        client = self._client
        if client is None:
            return False
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if response_topic is not None:
            properties.ResponseTopic = response_topic
        if correlation is not None:
            properties.CorrelationData = correlation
        try:
            await client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        except (aiomqtt.MqttError, ValueError) as error:  # the socket went while it was written to
            _log.debug("%s: not published: %s", topic, error)
            return False
        return True

    async def subscribe(self, topic: str) -> None:
        """Hear of one more topic, now and after every return."""
        if topic not in self._topics:
            self._topics.append(topic)
        client = self._client
        if client is not None:
            with contextlib.suppress(aiomqtt.MqttError):  # then ``run`` does it again
                await client.subscribe(topic, qos=1)

    async def _connected(self) -> None:
        host, port, _ = self._broker.address()
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = IMAGE_MAX
        will = None
        if self._will is not None:
            will = aiomqtt.Will(*self._will, qos=1, retain=True)
        async with aiomqtt.Client(
            host,
            port,
            identifier=self._identifier,
            protocol=aiomqtt.ProtocolVersion.V5,
            username=self._broker.user,
            password=self._broker.password(),
            tls_context=self._broker.tls(),
            will=will,
            clean_start=True,
            keepalive=KEEPALIVE_S,
            timeout=TIMEOUT_S,
            properties=properties,
        ) as client:
            for topic in self._topics:
                await client.subscribe(topic, qos=1)
            self._client = client
            _log.info("broker %s: connected", self._broker.url)
            await self._on_up()  # what comes meanwhile waits
            async for message in client.messages:
                self._on_message(_incoming(message))


def _incoming(message: aiomqtt.Message) -> Incoming:
    payload = message.payload if isinstance(message.payload, bytes) else b""
    properties = message.properties
    return Incoming(
        str(message.topic),
        payload,
        getattr(properties, "ResponseTopic", None),
        getattr(properties, "CorrelationData", None),
    )
