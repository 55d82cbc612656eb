"""`aspects-pii demo`: a stranger's first minute."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.installation import Installation

USERS = 300


def test_tells_every_step_and_removes_its_folder(installation: Installation) -> None:
    # Settings of the operator's own are not the demo's business.
    out = installation.run("demo", "--users", USERS, CLICKHOUSE_URL="http://clickhouse.invalid:8123")
    steps = re.findall(r"^(\d+)\. .+\n-+$", out, re.MULTILINE)
    assert steps == [str(number) for number in range(1, len(steps) + 1)]
    assert len(steps) >= 9
    commands = re.findall(r"^\$ aspects-pii (\w+)", out, re.MULTILINE)
    for command in ("init", "sync", "build", "retire", "verify", "purge", "status"):
        assert command in commands
    _, err = installation.last_said()
    assert "Storing PII is off" in err
    assert "(exit status 3)" in out
    # The dashboard shows learners, after their retirement others, and with PII off only pseudonyms.
    tables = out.split("$ SELECT … FROM reporting.learners_at_risk")[1:]
    first, second, last = [set(re.findall(r"^(\d+) .*@", table, re.MULTILINE)) for table in tables]
    assert len(first) == len(second) == 5
    assert len(first & second) == 2
    assert last == set()
    assert len(set(re.findall(r"^[0-9A-F]{16}\s+Learner [A-Z2-9]{4}-[A-Z2-9]{2}\s+\d+", tables[2], re.MULTILINE))) == 5
    assert "3 of 3 retirements are erased and verified on chdb:///" in out
    assert "nothing is left" in out
    events = re.findall(r"([\d,]+) (?:anonymised )?events", out)
    assert len(events) == 3
    assert len(set(events)) == 1
    assert int(events[0].replace(",", "")) > USERS
    assert "Receipt: personal data of user" in out
    assert ": no PII is left. Tombstones and ledger stay." in out
    folder = Path(re.findall(r"Everything was in (\S+)\.", out)[0])
    assert folder.parent == installation.left_behind / "work"
    assert not folder.exists()
    assert list((installation.left_behind / "work").iterdir()) == []
    assert list((installation.left_behind / "temporary").iterdir()) == []


def test_does_not_touch_a_folder_of_somebody_elses(installation: Installation) -> None:
    """That `--keep` keeps: tests/acceptance/test_wheel.py."""
    thesis = installation.left_behind / "work" / "thesis"
    thesis.mkdir()
    (thesis / "chapter-1.md").write_text("the only copy")
    installation.run("demo", "--folder", "thesis", expected=2)
    assert "it exists and is not the demo's" in installation.last_said()[1]
    assert [path.name for path in thesis.iterdir()] == ["chapter-1.md"]
