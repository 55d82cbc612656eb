"""The app, as Open edX's plugin system wants it.

The keys of `plugin_app` are those of edx-django-utils' `edx_django_utils.plugins`, which is not imported for them:
the LMS loads this module before anything else of ours, and it has to stay light.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.apps import AppConfig

_SETTINGS = {
    "common": {"relative_path": "settings.common"},
    "production": {"relative_path": "settings.production"},
}


class AspectsPiiConfig(AppConfig):  # type: ignore[misc]  # Django has no types.
    """Aspects PII."""

    name = "sink.doors.plugin"
    label = "aspects_pii"
    verbose_name = "Aspects PII"
    plugin_app: ClassVar[dict[str, Any]] = {
        "settings_config": {"lms.djangoapp": _SETTINGS, "cms.djangoapp": _SETTINGS},
    }

    def ready(self) -> None:
        """Listen to retirements and changes."""
        from sink.doors.plugin.receivers import connect_receivers

        connect_receivers()
