"""The alerts that ship are about metrics that the hook shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sink.doors.cli.main import app
from sink.doors.cli.tree import list_commands, make_command

ROOT = Path(__file__).parents[3]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "config/prometheus/aspects-pii.rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
_METRIC = re.compile(r"aspects_pii_\w+")


def list_metrics() -> set[str]:
    """What /metrics can show, by the source; the library adds `_total` to counters."""
    texts = [path.read_text() for path in (ROOT / "sink/doors/web").glob("*.py")]
    counters = {
        name for text in texts for name in re.findall(r'Counter(?:MetricFamily)?\(\s*"(aspects_pii_\w+)"', text)
    }
    named = {name for text in texts for name in re.findall(r'"(aspects_pii_\w+)"', text)}
    return {f"{name}_total" if name in counters else name for name in named}


def test_every_alert_is_about_metrics_that_there_are() -> None:
    known = list_metrics()
    assert {"aspects_pii_clickhouse_up", "aspects_pii_ledger_entries_total"} <= known
    asked = {metric for rule in RULES for metric in _METRIC.findall(rule["expr"])}
    assert len(asked) >= 10
    assert asked - known == set()


def test_every_alert_of_the_page_is_in_the_rules() -> None:
    table = (ROOT / "docs/http.md").read_text().partition("| metric | alert |")[2].partition("\n\n")[0]
    documented = set(_METRIC.findall(table))
    assert len(documented) >= 10
    assert documented - {metric for rule in RULES for metric in _METRIC.findall(rule["expr"])} == set()


def test_every_alert_says_what_to_do() -> None:
    commands = {name for name, _ in list_commands(make_command(app))}
    assert len(RULES) >= 10
    for rule in RULES:
        assert rule["annotations"]["summary"].endswith("."), rule["alert"]
        assert rule["annotations"]["description"].endswith("."), rule["alert"]
        named = re.findall(r"`aspects-pii ([a-z -]+?)(?: --[^`]*)?`", rule["annotations"]["description"])
        assert {name for name in named if name not in commands} == set()
