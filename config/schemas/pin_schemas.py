"""Write the Avro schemas of the events that we read, as openedx-events defines them, next to this file.

    python config/schemas/pin_schemas.py          # after openedx-events changed an event that we read
    python config/schemas/pin_schemas.py --check  # says which pinned schema is out of date; exit status 1 if one is

It needs openedx-events; the consumer does not. The bus carries bare Avro without a schema or its id, so that an
event can only be read with the very schema that it was written with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import openedx_events.learning.signals as learning
from openedx_events.event_bus.avro.schema import schema_from_signal

try:
    import openedx_events.authz.signals as authz
except ImportError:
    # They came with openedx-events 11.2.0; an LMS that has an older one sends none of them.
    OF_AUTHZ = ()
else:
    OF_AUTHZ = (authz.ROLE_ASSIGNMENT_CREATED, authz.ROLE_ASSIGNMENT_DELETED)

SIGNALS = (
    learning.STUDENT_REGISTRATION_COMPLETED,
    learning.SESSION_LOGIN_COMPLETED,
    learning.COURSE_ACCESS_ROLE_ADDED,
    learning.COURSE_ACCESS_ROLE_REMOVED,
    *OF_AUTHZ,
)
FOLDER = Path(__file__).parent


def main() -> int:
    """Write or check, and return the exit status."""
    outdated = 0
    for signal in SIGNALS:
        path = FOLDER / f"{signal.event_type}.avsc"
        text = json.dumps(schema_from_signal(signal), indent=2) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            sys.stderr.write(f"{path.name} differs from openedx-events\n")
            outdated += 1
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
