"""What the operator has written into the LMS's configuration files."""

from __future__ import annotations

from typing import Any

from sink.doors.plugin.settings.common import read_flag, read_names


def plugin_settings(settings: Any) -> None:
    """Take our settings from the configuration of the LMS, where it has them."""
    tokens = {**getattr(settings, "ENV_TOKENS", {}), **getattr(settings, "AUTH_TOKENS", {})}
    settings.ASPECTS_ENABLE_PII = read_flag(tokens.get("ASPECTS_ENABLE_PII", settings.ASPECTS_ENABLE_PII))
    settings.ASPECTS_PII_BROKER_URL = tokens.get("ASPECTS_PII_BROKER_URL", settings.ASPECTS_PII_BROKER_URL)
    events = tokens.get("ASPECTS_PII_RETIREMENT_EVENTS", settings.ASPECTS_PII_RETIREMENT_EVENTS)
    settings.ASPECTS_PII_RETIREMENT_EVENTS = read_names(events)
