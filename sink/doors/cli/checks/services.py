"""What `aspects-pii doctor` looks at beside the databases: broker, event bus, Superset, the HTTP hook's keys.

.. no_pii: addresses without user and password, counts.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

from sink.doors.cli.checks.examination import Area, Check, Finding, blame, fine, pass_over
from sink.installation import find_superset, read_map
from sink.settings import Settings
from sink.wording import counted

_CONNECT_SECONDS = 5


def describe_services(settings: Settings) -> list[Area]:
    """An area each, so that none waits for another."""
    look = _Services(settings)
    return [
        Area(
            "broker", [Check("reachable", look.reach_broker, "Check ASPECTS_BROKER_URL and that it runs.")], ExitStack()
        ),
        Area("event bus", [Check("reachable", look.reach_bus, "Check the address, and that it runs.")], ExitStack()),
        Area(
            "Superset",
            [Check("reachable", look.reach_superset, "Check ASPECTS_SUPERSET_URL, _USER and _PASSWORD.")],
            ExitStack(),
        ),
        Area(
            "HTTP hook",
            [
                Check("callers", look.check_hook, "See `aspects-pii docs http`."),
                Check("page", look.check_privacy_page, "See `aspects-pii docs privacy-page`."),
            ],
            ExitStack(),
        ),
    ]


class _Services:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def reach_broker(self) -> Finding:
        url = self._settings.broker_url
        if url is None:
            return pass_over("reachable", "ASPECTS_BROKER_URL is not set: `worker` and the LMS plugin need it")
        from kombu import Connection

        try:
            with Connection(url.get_secret_value(), connect_timeout=_CONNECT_SECONDS) as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_SECONDS)
                return fine("reachable", connection.transport.driver_type)
        except Exception as error:
            # Whatever the transport raises may quote the address, password included.
            return blame("reachable", f"it cannot be reached ({type(error).__name__})", "Check ASPECTS_BROKER_URL.")

    def reach_bus(self) -> Finding:
        settings = self._settings
        if settings.event_bus_url is None and settings.kafka_bootstrap_servers is None:
            return pass_over("reachable", "no event bus is set: only `consume` needs one")
        from sink.doors.events.sources import open_streams, read_sources

        streams = list(read_sources(settings, read_map(settings).subject).decoders)
        kind = "Redis" if settings.event_bus_url is not None else "Kafka"
        with closing(open_streams(settings, streams)) as opened:
            there = opened.find_existing()
        said = f"{kind}, with {len(there)} of {counted(len(streams), 'stream')}"
        missing = [name for name in streams if name not in there]
        return fine("reachable", f"{said}; not there yet: {', '.join(missing)}" if missing else said)

    def reach_superset(self) -> Finding:
        address = find_superset(self._settings)
        if address is None:
            return pass_over("reachable", "ASPECTS_SUPERSET_URL is not set: only `dashboards` needs it")
        from sink.dashboards.superset_api import Superset

        with Superset(address) as superset:
            superset.require_suitable()
        return fine("reachable", f"{address.url}, as {address.user}")

    def check_hook(self) -> Finding:
        from sink.doors.web.auth import Guard

        if Guard(self._settings).requires_authentication:
            return fine("callers", "they have to authenticate")
        return pass_over("callers", "no token and no key is set: only programs of this host may call `serve`")

    def check_privacy_page(self) -> Finding:
        if not self._settings.privacy_page:
            return pass_over("page", "ASPECTS_PRIVACY_PAGE is off")
        from sink.doors.web.privacy.officers import Officers

        return fine("page", f"one signs in with {Officers(self._settings).describe()}")
