"""How to connect to Kafka, from the settings to the words of its client."""

from __future__ import annotations

import logging
from typing import Any

from sink.errors import SettingsError
from sink.settings import Settings

# .. no_pii: addresses, and a password for Kafka.


def make_kafka_options(settings: Settings) -> dict[str, Any]:
    """How to connect, in the client's words; they hold the password.

    Raises:
        SettingsError: some of the settings do not go together.
    """
    options: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
        # The client's own lines go where ours go.
        "logger": logging.getLogger("sink.doors.events.kafka_streams.client"),
    }
    uses_sasl = settings.kafka_security_protocol.startswith("SASL")
    if uses_sasl != (settings.kafka_username is not None) or uses_sasl != (settings.kafka_password is not None):
        raise SettingsError(
            "ASPECTS_KAFKA_USERNAME and ASPECTS_KAFKA_PASSWORD go with SASL, and SASL needs both. "
            "Example: ASPECTS_KAFKA_SECURITY_PROTOCOL=SASL_SSL"
        )
    if uses_sasl and settings.kafka_password is not None:
        options |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password.get_secret_value(),
        }
    if settings.kafka_ca_file is not None:
        if not settings.kafka_ca_file.is_file():
            raise SettingsError("ASPECTS_KAFKA_CA_FILE is not valid: there is no such file.")
        options["ssl.ca.location"] = str(settings.kafka_ca_file)
    return options
