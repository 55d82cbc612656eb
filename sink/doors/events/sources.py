"""Which streams are read, through which transport, and who decodes them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from sink.doors.events.avro_events import decode_framed_event, decode_open_edx_event
from sink.doors.events.json_events import load_event_map, make_json_decoder
from sink.doors.events.kafka_options import make_kafka_options
from sink.doors.events.redis_streams import RedisStreams
from sink.doors.events.work import VALUE, Decoder, Streams
from sink.errors import UsageError
from sink.pii_map import Subject
from sink.resources import find_resource
from sink.settings import Settings


@dataclass(frozen=True)
class Sources:
    """The streams that the settings name."""

    decoders: dict[str, Decoder]
    """By stream, with its prefix."""
    asks_for_copies: bool
    """Whether a message can ask for a copy from the LMS."""


class _Group(TypedDict):
    """Who reads, and where dead letters go."""

    group: str
    consumer: str
    dead_letters: str


def read_sources(settings: Settings, subject: Subject) -> Sources:
    """Which streams are read, and how.

    Raises:
        UsageError: a stream is named twice or none is, or events ask for copies of subjects that have no LMS id.
        MapError: the mapping of JSON events is not valid.
    """
    is_kafka = settings.kafka_bootstrap_servers is not None
    prefix = f"{settings.event_bus_topic_prefix}-" if settings.event_bus_topic_prefix else ""
    topics = [prefix + topic for topic in settings.event_bus_topics]
    both = set(topics) & set(settings.event_streams)
    if both:
        raise UsageError(f"{min(both)} stands in ASPECTS_EVENT_BUS_TOPICS and in ASPECTS_EVENT_STREAMS.")
    decode = decode_framed_event if is_kafka else decode_open_edx_event
    # Where subjects are not known by the LMS's ids, its events say nothing.
    decoders: dict[str, Decoder] = dict.fromkeys(topics, decode) if subject.type == "integer" else {}
    asks_for_copies = bool(decoders)
    if settings.event_streams:
        event_map = load_event_map(settings.event_map or find_resource("config/events.yaml"))
        maps_sync = any(rule.action == "sync" for rule in event_map.events.values())
        if subject.type == "text" and maps_sync:
            raise UsageError("The mapping of events asks for `sync`, but the map's subject.type is text: no LMS id.")
        asks_for_copies = asks_for_copies or maps_sync
        decoder = make_json_decoder(event_map, subject, VALUE if is_kafka else settings.event_field)
        decoders |= dict.fromkeys(settings.event_streams, decoder)
    if not decoders:
        raise UsageError("No stream is named. Set ASPECTS_EVENT_STREAMS or ASPECTS_EVENT_BUS_TOPICS.")
    return Sources(decoders, asks_for_copies)


def open_redis_streams(settings: Settings, streams: Sequence[str]) -> RedisStreams:
    """The Redis that the settings name.

    Raises:
        UsageError: they name none.
        SettingsError: it is no address of a Redis.
    """
    if settings.event_bus_url is None:
        raise UsageError(
            "Neither ASPECTS_EVENT_BUS_URL nor ASPECTS_KAFKA_BOOTSTRAP_SERVERS is set. "
            "Example: ASPECTS_EVENT_BUS_URL=redis://redis:6379/0"
        )
    return RedisStreams(settings.event_bus_url, streams, **_describe_group(settings))


def open_streams(settings: Settings, streams: Sequence[str]) -> Streams:
    """Redis or Kafka, whichever the settings name.

    Raises:
        UsageError: they name none, or both, or Kafka's client is missing.
        SettingsError: an address or what goes with it is not valid.
    """
    if settings.kafka_bootstrap_servers is None:
        return open_redis_streams(settings, streams)
    if settings.event_bus_url is not None:
        raise UsageError(
            "ASPECTS_EVENT_BUS_URL and ASPECTS_KAFKA_BOOTSTRAP_SERVERS are both set. "
            "A consumer reads from one of them; run one for each."
        )
    try:
        # Here, not above: its client comes with an extra.
        from sink.doors.events.kafka_streams import KafkaStreams
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise UsageError(
            "ASPECTS_KAFKA_BOOTSTRAP_SERVERS is set, and Kafka's client is not installed: "
            "pip install 'aspects-pii-sink[kafka]'"
        ) from None
    return KafkaStreams(make_kafka_options(settings), streams, **_describe_group(settings))


def _describe_group(settings: Settings) -> _Group:
    return {
        "group": settings.event_group,
        "consumer": settings.event_consumer or socket.gethostname(),
        "dead_letters": settings.event_dead_letters,
    }
