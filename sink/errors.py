"""Every exception that leaves a module of this package, classed by what the caller can do about it.

What is told to people; each has the exit status of a command, and says whether to try again helps::

    AspectsPiiError                 exit status 1
    ├── SettingsError               exit status 2: a setting is unknown, malformed or missing
    │   └── StoreMissingError       no store is where the settings say, and only `init` makes one
    ├── UsageError                  exit status 2: the command line asks for what cannot be
    ├── MapError                    exit status 2: the PII map is not valid
    ├── PiiDisabledError            exit status 3: refused because ASPECTS_ENABLE_PII is off
    ├── BusyError                   retriable: another process is at the same work
    ├── RefusedError                a safeguard stopped the work; the message names the way to insist
    ├── MigrationError              an applied migration was edited, or one failed
    ├── DatabaseError               ClickHouse
    │   ├── UnreachableError        retriable: no answer, or the connection broke
    │   ├── OverloadedError         retriable: too many queries, parts or too little memory
    │   ├── AuthenticationError     exit status 2: user or password in the settings is wrong
    │   ├── AddressError            exit status 2: what answers is no ClickHouse, or is not trusted
    │   ├── DatabaseMissingError
    │   ├── ReadOnlyError
    │   ├── EmbeddedBusyError       another process holds the embedded data folder
    │   ├── EmbeddedDamagedError    the embedded engine cannot open what is in its data folder
    │   └── QueryError              the engine refused a statement
    ├── LmsError                    the LMS database
    │   ├── LmsUnreachableError     retriable
    │   ├── LmsAddressError         exit status 2: user, password or database in the address is wrong
    │   └── LmsSchemaError          a table or column that we read is missing
    ├── SupersetError               Superset refused, or is not as it has to be
    │   ├── SupersetUnreachableError    retriable
    │   └── SupersetAuthenticationError exit status 2: user or password in the settings is wrong
    ├── StreamsUnreachableError     retriable: Redis or Kafka gives no answer, or one that makes no sense
    ├── BuildError                  dbt could not build or test a dataset; the message names it
    ├── LedgerError                 retriable: what was done could not be recorded, so it counts as not done
    ├── ErasureError                retriable: residue was found, or could not be looked for
    ├── RetirementDriverError       inside Open edX's retirement pipeline: the hook or the LMS refused
    │   └── RetirementDriverRetryError  retriable
    ├── HeartbeatError              worker or consumer is stuck or gone: start it again
    └── DemoError                   a step of the demo ended otherwise than its story says

What a door turns into an answer, so that nobody else sees it::

    Exception
    ├── InvalidMessageError         a message of a stream cannot be used: it goes to the dead letters
    ├── HttpProblemError            a request to the hook was not carried out: its status and problem details
    └── ProtocolError               a request to the endpoint was not carried out: the error that ClickHouse would name

No message holds a value from a row: drivers quote offending values in their messages, so those
texts are cut at the boundary (`translated`, below) and only codes and names of things pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class AspectsPiiError(Exception):
    """Something went wrong in aspects-pii."""

    exit_status = 1
    retriable = False

    def __init__(self, message: str | None = None) -> None:
        """Use `message`, or the class's docstring where there is none."""
        super().__init__(message or (self.__doc__ or "").strip().split("\n")[0])


class SettingsError(AspectsPiiError):
    """A setting is not valid."""

    exit_status = 2


class StoreMissingError(SettingsError):
    """There is no store where the settings say."""

    @classmethod
    def at(cls, place: str) -> StoreMissingError:
        """Say where there is none, and what makes one."""
        return cls(
            f"There is no store on {place}. If it is to be there, run `aspects-pii init`; otherwise correct "
            "ASPECTS_CLICKHOUSE_URL and ASPECTS_LEDGER_DATABASE."
        )

    @classmethod
    def without(cls, place: str, databases: Mapping[str, str]) -> StoreMissingError:
        """Say which databases of a store are not there, given as name in the map -> name in this installation."""
        missing = " and ".join(f"{actual} ({_setting_of(logical)})" for logical, actual in databases.items())
        return cls(
            f"The store on {place} has no database {missing}, and nothing can be proved of what is not there. Correct the "
            "setting; or run `aspects-pii init`, if it is to be made."
        )

    @classmethod
    def elsewhere(cls, place: str, databases: Iterable[tuple[str, str, str]]) -> StoreMissingError:
        """Say which databases the settings call otherwise, given as name in the map, noted name and configured name."""
        named = " and ".join(
            f"{noted}, not {configured} ({_setting_of(logical)})" for logical, noted, configured in databases
        )
        return cls(
            f"The store on {place} has its data in the database {named}, and nothing can be proved of another one. Correct "
            "the setting; or run `aspects-pii init`, if the store has moved."
        )


def _setting_of(logical: str) -> str:
    return f"ASPECTS_{logical.upper()}_DATABASE"


class UsageError(AspectsPiiError):
    """The command was called in a way it does not understand."""

    exit_status = 2


class MapError(AspectsPiiError):
    """The PII map is not valid."""

    exit_status = 2


class PiiDisabledError(AspectsPiiError):
    """Storing PII is off: set ASPECTS_ENABLE_PII=true to turn it on."""

    exit_status = 3


class RefusedError(AspectsPiiError):
    """A safeguard refused this."""


class BusyError(AspectsPiiError):
    """Another process is at the same work."""

    retriable = True


class MigrationError(AspectsPiiError):
    """The schema could not be brought up to date."""


class DatabaseError(AspectsPiiError):
    """ClickHouse reported a problem."""

    def __init__(self, message: str | None = None, code: int = 0, name: str = "") -> None:
        """`code` and `name` are ClickHouse's own, 0 and empty where the problem was before it answered."""
        super().__init__(message)
        self.code = code
        self.name = name

    def __reduce__(self) -> tuple[type[DatabaseError], tuple[str, int, str]]:
        return type(self), (str(self), self.code, self.name)


class UnreachableError(DatabaseError):
    """ClickHouse cannot be reached."""

    retriable = True


class OverloadedError(DatabaseError):
    """ClickHouse is too busy."""

    retriable = True


class AuthenticationError(DatabaseError):
    """ClickHouse refused the user name or the password."""

    exit_status = 2


class AddressError(DatabaseError):
    """What answers at ASPECTS_CLICKHOUSE_URL is not ClickHouse, or cannot be trusted."""

    exit_status = 2


class DatabaseMissingError(DatabaseError):
    """The ClickHouse database does not exist."""


class ReadOnlyError(DatabaseError):
    """ClickHouse does not let this user write."""


class EmbeddedBusyError(DatabaseError):
    """The embedded engine's data folder is in use by another process."""


class EmbeddedDamagedError(DatabaseError):
    """The embedded engine cannot open what is in its data folder."""

    @classmethod
    def at(cls, folder: Path, reason: str) -> EmbeddedDamagedError:
        """Say which folder, why, and what helps."""
        return cls(
            f"The data folder {folder} cannot be opened, and no other process has it: {reason}. If it is the same again, "
            "restore the folder from a backup, and run `aspects-pii replay --from` with an export of the ledger."
        )


class QueryError(DatabaseError):
    """ClickHouse refused a statement."""


class LmsError(AspectsPiiError):
    """The LMS database reported a problem."""


class LmsUnreachableError(LmsError):
    """The LMS database cannot be reached."""

    retriable = True


class LmsAddressError(LmsError):
    """ASPECTS_LMS_DATABASE_URL names a user, a password or a database that the server does not know."""

    exit_status = 2


class LmsSchemaError(LmsError):
    """The LMS database lacks a table or column that is read."""


class SupersetError(AspectsPiiError):
    """Superset reported a problem."""


class SupersetUnreachableError(SupersetError):
    """Superset cannot be reached."""

    retriable = True


class SupersetAuthenticationError(SupersetError):
    """Superset refused the user or the password."""

    exit_status = 2


class StreamsUnreachableError(AspectsPiiError):
    """The event streams cannot be reached."""

    retriable = True


class BuildError(AspectsPiiError):
    """Building the datasets failed; the message names the models and tests."""


class LedgerError(AspectsPiiError):
    """The ledger could not be written."""

    retriable = True


class ErasureError(AspectsPiiError):
    """Something of a retired subject is still there, or could not be looked for."""

    retriable = True


class RetirementDriverError(AspectsPiiError):
    """The retirement could not be handed over to aspects-pii."""


class RetirementDriverRetryError(RetirementDriverError):
    """The retirement could not be handed over to aspects-pii for now."""

    retriable = True


class HeartbeatError(AspectsPiiError):
    """A process has given no sign of life when one was due."""


class DemoError(AspectsPiiError):
    """Something went otherwise than the story of the demo says."""


class InvalidMessageError(Exception):
    """A message of a stream cannot be used; the arguments are why, and its kind. They hold no value of it."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason, kind)
        self.reason = reason
        self.kind = kind


class HttpProblemError(Exception):
    """A request to the hook is answered with a status and problem details."""

    def __init__(self, status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, error, message, headers)
        self.status, self.error, self.message, self.headers = status, error, message, dict(headers or {})

    def __str__(self) -> str:
        return self.message


class ProtocolError(Exception):
    """A request to the endpoint is answered with ClickHouse's name of an error, and a message for the client.

    Code and status follow from the name (see `sink.endpoint.protocol_errors`) unless they are given.
    """

    def __init__(
        self,
        name: str,
        message: str,
        code: int | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, message, code, status, headers)
        self.name, self.message, self.code, self.status = name, message, code, status
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        # The message is the client's alone: the engine quotes values.
        return self.name


@contextmanager
def translated(translate: Callable[[Exception], Exception | None]) -> Iterator[None]:
    """Raise what `translate` makes of an exception in its place; where that is None, leave it as it is.

    A driver's exception may quote a value, an address or a password, and what reports an exception reports its context
    too. `from None` only keeps the context from being printed; here the new exception has none.
    """
    translation: Exception | None = None
    try:
        yield
    except Exception as error:
        translation = translate(error)
        if translation is None:
            raise
    if translation is not None:
        try:
            raise translation
        finally:
            # Even here it is the driver's exception: the `with` statement around us is still handling it.
            translation.__context__ = None
