"""Every exception that this package raises, classed by what the caller can do about it.

The hierarchy::

    AspectsPiiError                 exit status 1
    ├── SettingsError               exit status 2: a setting is unknown, malformed or missing
    ├── UsageError                  exit status 2: the command line asks for what cannot be
    ├── MapError                    exit status 2: the PII map is not valid
    ├── PiiDisabledError            exit status 3: refused because ASPECTS_ENABLE_PII is off
    ├── BusyError                   retriable: another process is at the same work
    ├── RefusedError                a safeguard stopped the work; the message names the way to insist
    ├── MigrationError              an applied migration was edited, or one failed
    ├── DatabaseError               ClickHouse
    │   ├── UnreachableError        retriable: no answer, or the connection broke
    │   ├── OverloadedError         retriable: too many queries, parts or too little memory
    │   ├── AuthenticationError
    │   ├── DatabaseMissingError
    │   ├── ReadOnlyError
    │   ├── EmbeddedBusyError       another process holds the embedded data folder
    │   └── QueryError              the engine refused a statement
    ├── LmsError                    the LMS database
    │   ├── LmsUnreachableError     retriable
    │   └── LmsSchemaError          a table or column that we read is missing
    ├── SupersetError               Superset refused, or is not as it has to be
    │   ├── SupersetUnreachableError    retriable
    │   └── SupersetAuthenticationError
    ├── BuildError                  dbt could not build or test a dataset (sink.datasets.build)
    ├── LedgerError                 what was done could not be recorded, so it counts as not done
    └── ErasureError                residue was found, or could not be looked for

No message holds a value from a row: drivers quote offending values in their messages, so those
texts are cut at the boundary (see `sink.clickhouse.driver_errors`) and only codes and names of things pass.
"""

from __future__ import annotations


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


class DatabaseMissingError(DatabaseError):
    """The ClickHouse database does not exist."""


class ReadOnlyError(DatabaseError):
    """ClickHouse does not let this user write."""


class EmbeddedBusyError(DatabaseError):
    """The embedded engine's data folder is in use by another process."""


class QueryError(DatabaseError):
    """ClickHouse refused a statement."""


class LmsError(AspectsPiiError):
    """The LMS database reported a problem."""


class LmsUnreachableError(LmsError):
    """The LMS database cannot be reached."""

    retriable = True


class LmsSchemaError(LmsError):
    """The LMS database lacks a table or column that is read."""


class SupersetError(AspectsPiiError):
    """Superset reported a problem."""


class SupersetUnreachableError(SupersetError):
    """Superset cannot be reached."""

    retriable = True


class SupersetAuthenticationError(SupersetError):
    """Superset refused the user, the password, or what the user may do."""


class LedgerError(AspectsPiiError):
    """The ledger could not be written."""

    retriable = True


class ErasureError(AspectsPiiError):
    """Something of a retired subject is still there, or could not be looked for."""

    retriable = True
