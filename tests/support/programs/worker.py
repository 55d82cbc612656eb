"""A Celery worker with its schedule, as `aspects-pii worker`. Leases of the killed run out in seconds, not in a minute."""

from __future__ import annotations

import sys

from sink.doors.worker.app import run_worker
from sink.ledger import leases
from sink.settings import load_settings

leases._LEASE_SECONDS, leases._RENEW_EVERY_SECONDS = 3, 0.5
sys.exit(run_worker(load_settings()))
