"""ClickHouse's protocol over the engine: `… endpoint FOLDER PORT`. Told to stop, it waits two seconds for who is still there."""

from __future__ import annotations

import sys
from pathlib import Path

from sink import serving
from sink.endpoint.app import serve
from sink.settings import load_settings

serving.SHUTDOWN_GRACE_SECONDS = 2
serve(Path(sys.argv[1]), port=int(sys.argv[2]), password=load_settings().clickhouse_password)
