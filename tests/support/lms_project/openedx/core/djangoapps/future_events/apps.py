"""An event as a later release of openedx-events could have it: nothing of the kind exists today."""

from django.apps import AppConfig


class FutureEventsConfig(AppConfig):
    """Defines the event when the LMS starts."""

    name = "openedx.core.djangoapps.future_events"

    def ready(self):
        """Define it."""
        from openedx_events.learning.data import UserData
        from openedx_events.tooling import OpenEdxPublicSignal

        OpenEdxPublicSignal(event_type="org.openedx.learning.user.retired.v1", data={"user": UserData})
