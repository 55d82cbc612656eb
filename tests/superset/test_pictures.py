"""Each dashboard in a browser: it opens, nothing fails in it, and it can be looked at.

`SCREENSHOTS=docs/images make test-superset` keeps the pictures.
"""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sink.dashboards.superset_http import write_rison
from tests.superset import stack
from tests.superset.conftest import OFFICER, Site

SHOTS = Path(__file__).with_name("shots.py")
# A role that is not given the right to keep what somebody filters by is told so, and nobody else is.
EXPECTED = ("403 POST", "403 PUT")
SMALLEST = 30_000
LARGEST = 300_000


def take(site: Site, browser: str, user: str, language: str, pictures: list[tuple[str, Path]]) -> list[list[str]]:
    """Take pictures of dashboards as a user; what went wrong with each."""
    order = {
        "url": site.url,
        "user": user,
        "password": site.passwords[user],
        "language": language,
        "browser": browser,
        "pictures": [{"path": path, "file": str(file)} for path, file in pictures],
    }
    ran = subprocess.run(
        [str(stack.ENVIRONMENT / "bin" / "python"), str(SHOTS)],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
        timeout=1_200,
    )
    assert ran.returncode == 0, ran.stderr[-2_000:]
    complaints: list[list[str]] = json.loads(ran.stdout)
    return [[text for text in texts if not text.startswith(EXPECTED)] for texts in complaints]


def choose_learner(site: Site, dashboard: str, learner: str) -> str:
    """The address of a dashboard with a learner chosen in its filter."""
    found = site.admin.get(f"/api/v1/dashboard/{dashboard}").json()["result"]
    filters: list[dict[str, Any]] = json.loads(found["json_metadata"])["native_filter_configuration"]
    number = next(
        f["id"] for f in filters if any(t.get("column", {}).get("name") == "learner_key" for t in f["targets"])
    )
    state = {
        "id": number,
        "extraFormData": {"filters": [{"col": "learner_key", "op": "IN", "val": [learner]}]},
        "filterState": {"label": learner, "validateStatus": False, "value": [learner]},
        "ownState": {},
    }
    return f"/superset/dashboard/{dashboard}/?native_filters={quote(write_rison({number: state}))}"


def find_busy_learner(site: Site) -> str:
    """A learner who has something to show."""
    with site.log_in(site.world.username(site.world.of_b_and_c)) as viewer:
        dataset = site.find("dataset")["aspects_pii_learner_timeline"]
        metric = {"expressionType": "SQL", "sqlExpression": "count()", "label": "days"}
        answer = viewer.ask(dataset, {"columns": ["learner_key"], "metrics": [metric], "orderby": [[metric, False]]})
    assert answer.status_code == 200, answer.text[:500]
    learner: str = answer.json()["result"][0]["data"][0]["learner_key"]
    return learner


def check(picture: Path) -> None:
    """It is a picture of a page with something on it, and small enough for the documentation."""
    content = picture.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert width == 1_440
    assert height > 800
    assert SMALLEST < len(content) < LARGEST


def test_dashboards_of_course_staff(site: Site, browser: str, pictures: Path) -> None:
    paths = [
        ("/superset/dashboard/learners-to-reach/", pictures / "learners-to-reach.png"),
        (choose_learner(site, "one-learner", find_busy_learner(site)), pictures / "one-learner.png"),
        ("/superset/dashboard/who-our-learners-are/", pictures / "who-our-learners-are.png"),
    ]
    user = site.world.username(site.world.of_b_and_c)
    assert take(site, browser, user, "en", paths) == [[], [], []]
    for _, picture in paths:
        check(picture)


def test_dashboard_of_the_data_protection_officer(site: Site, browser: str, pictures: Path) -> None:
    # Learners only; the first users have no role.
    site.succeed("retire", *range(11, 17))
    site.succeed("verify")
    picture = pictures / "privacy.png"
    assert take(site, browser, OFFICER, "en", [("/superset/dashboard/privacy/", picture)]) == [[]]
    check(picture)


def test_dashboard_of_somebody_who_sees_nothing(site: Site, browser: str, tmp_path: Path) -> None:
    picture = tmp_path / "nothing.png"
    user = site.world.username(site.world.nobody)
    assert take(site, browser, user, "en", [("/superset/dashboard/learners-to-reach/", picture)]) == [[]]
    assert picture.stat().st_size > SMALLEST / 2


@pytest.mark.parametrize("language", ["es"])
def test_dashboards_in_another_language(site: Site, browser: str, pictures: Path, language: str) -> None:
    picture = pictures / f"learners-to-reach-{language}.png"
    user = site.world.username(site.world.of_b_and_c)
    site.succeed("dashboards", "install", SUPERSET_LANGUAGE=language)
    try:
        assert take(site, browser, user, language, [("/superset/dashboard/learners-to-reach/", picture)]) == [[]]
    finally:
        site.succeed("dashboards", "install")
    check(picture)
