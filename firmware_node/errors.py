"""The error tree: each class says whose fault it is.

``AssertionError`` and ``TypeError`` are ours and are caught nowhere.
"""


class FirmwareNodeError(Exception):
    """Root of everything this project raises for the world outside."""


class DecodeError(FirmwareNodeError):
    """The peer's bytes do not form what they should.

    Attributes:
        what: the structure being read, for example ``"OTA header"``.
        offset: where in its bytes, counted from 0.
        reason: what was found and what was expected.
    """

    def __init__(self, what: str, offset: int, reason: str) -> None:
        super().__init__(f"{what} at octet {offset}: {reason}")
        self.what = what
        self.offset = offset
        self.reason = reason


class RefusedError(FirmwareNodeError):
    """The peer's wish is understood and not granted: authority, counter, hash, size.

    Attributes:
        code: the ZCL status or GBCS alert code that tells the peer.
        cause: a fixed snake_case word for logs and ``last_failure``.
    """

    def __init__(self, code: int, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.cause = cause
        self.reason = reason


class StorageError(FirmwareNodeError):
    """Our storage failed: the process stops acknowledging and exits (dual-bank.md 9)."""


class StorageFullError(StorageError):
    """No space is left: a download pauses, an activation is refused."""


class RecordLostError(StorageError):
    """A record's checksum is wrong, or one that must exist does not: never data, never empty."""


class KeyMissingError(FirmwareNodeError):
    """A key that an operation needs is not in the keyring."""


class ConfigError(FirmwareNodeError):
    """The operator's configuration, key or input file is wrong: one line, exit code 2."""


class EnvironmentFailure(FirmwareNodeError):
    """The machine lacks something: no radio, port in use, state locked, disk full: exit code 3."""
