"""docs/record-of-processing.md: what stands there by hand, and the record of the map that ships.

python -m tests.support.record_page > docs/record-of-processing.md
"""

from __future__ import annotations

import sys

from sink.pii_map import load_map
from sink.resources import find_resource
from sink.rights.record import compose_record
from sink.rights.record_formats import write_markdown
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "record-of-processing.md"
_HEAD = """# The record of processing

GDPR article 30 asks whoever is responsible for a record of what is processed, why, and for how long. What follows is
that record for the PII map that ships (`config/pii.yaml`), as `aspects-pii map show --format md` writes it. It is made
from the map, so it says what the software does.

    aspects-pii map show --format md      # this page's tables, for your map
    aspects-pii map show --format json    # for a register; with `complete: false` where the map says too little
    aspects-pii map show --format csv     # for a spreadsheet; no cell is a formula

It needs no ClickHouse. `ASPECTS_INSTITUTION` and `ASPECTS_CONTACT` name who is responsible.

**What you have to confirm.** Purposes, legal bases and recipients are proposals for a university or company that runs
Open edX. Which basis holds depends on your country and on what you have told your learners. Put them right in a copy of
the map (`purpose`, `legal_basis`, `recipients`, `source`, `retention`; [how](map.md)). What no software can know is not
in the record: your data protection officer, processors, and transfers to other countries (article 30 (1) a, d and e).

`reporting` and the other names of databases are those of the map; yours may be called otherwise. Aspects' own tables
are listed whether an installation has them or not.

"""


def render() -> str:
    """The page."""
    activities = compose_record(load_map(find_resource("config/pii.yaml")), find_resource("dbt_project"))
    return _HEAD + write_markdown(activities, None, None)


if __name__ == "__main__":
    sys.stdout.write(render())
