"""Where the files that travel with the package are: the map, the SQL, the dbt project."""

from __future__ import annotations

from pathlib import Path

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
