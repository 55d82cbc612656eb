"""Reads one JSON document a line, `{"call": step, …arguments}`, and answers with `{"result": …}` or `{"error": …}`."""

import json
import os
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "lms.envs.production")

    import django

    if find_spec("openedx_events.authz") is None:
        # As openedx-events 11.2.0 has them.
        from tests.support import authz_events

        sys.modules["openedx_events.authz.signals"] = authz_events

    django.setup()

    import steps
    from lms.celery import APP  # noqa: F401

    for line in sys.stdin:
        call = json.loads(line)
        started = time.monotonic()
        try:
            answer = {"result": getattr(steps, call.pop("call"))(*call.pop("arguments", ()), **call)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": type(error).__name__}
        answer["seconds"] = time.monotonic() - started
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
