"""What travels with the package: its version, and where the map, the SQL and the dbt project are."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

VERSION = version("aspects-pii-sink")
_PACKAGE = Path(__file__).resolve().parent


def find_resource(name: str) -> Path:
    """Return the path of `name` (such as `config/pii.yaml`), in the wheel or in a checkout.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        if (path := root / name).exists():
            return path
    raise FileNotFoundError(f"{name} is missing from this installation of aspects-pii-sink; install it again")
