"""librdkafka's own broker for tests: prints its address, and ends with its standard input.

It keeps topics, groups and offsets as Kafka does. It checks no password and encrypts nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import Producer

options: dict[str, Any] = {"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0}
broker = Producer(options)
addresses = [f"{one.host}:{one.port}" for one in broker.list_topics(timeout=30).brokers.values()]
sys.stdout.write(",".join(addresses) + "\n")
sys.stdout.flush()
sys.stdin.read()
