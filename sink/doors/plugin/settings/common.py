"""Defaults: what the environment says, with the names that the sink itself uses."""

from __future__ import annotations

import os
from typing import Any


def plugin_settings(settings: Any) -> None:
    """Give the LMS our settings, where it does not have them yet."""
    if not hasattr(settings, "ASPECTS_ENABLE_PII"):
        settings.ASPECTS_ENABLE_PII = read_flag(os.environ.get("ASPECTS_ENABLE_PII"))
    if not hasattr(settings, "ASPECTS_PII_BROKER_URL"):
        settings.ASPECTS_PII_BROKER_URL = os.environ.get("ASPECTS_BROKER_URL")
    if not hasattr(settings, "ASPECTS_PII_RETIREMENT_EVENTS"):
        settings.ASPECTS_PII_RETIREMENT_EVENTS = read_names(os.environ.get("ASPECTS_PII_RETIREMENT_EVENTS"))


def read_flag(value: Any) -> bool:
    """A flag that may come as text; anything that does not clearly say yes is no."""
    return str(value).strip().lower() in ("true", "yes", "on", "1", "t", "y")


def read_names(value: Any) -> list[str]:
    """Names: a list, or a text with commas between them."""
    names = value.split(",") if isinstance(value, str) else value or ()
    return [name for name in (str(name).strip() for name in names) if name]
