"""`aspects-pii consume`. Leases of the killed run out in seconds, and what they have left is looked for as often.

With an argument, a session of a Kafka consumer lasts so many milliseconds.
"""

from __future__ import annotations

import sys

from sink.doors import outcomes
from sink.doors.events import consumer
from sink.ledger import leases
from sink.settings import load_settings

leases._LEASE_SECONDS, leases._RENEW_EVERY_SECONDS = 3, 0.5
outcomes.SWEEP_RETRY_SECONDS = 2
if len(sys.argv) > 1:
    from sink.doors.events import kafka_streams

    kafka_streams.SESSION_TIMEOUT_MS = int(sys.argv[1])
consumer.run_consumer(load_settings())
