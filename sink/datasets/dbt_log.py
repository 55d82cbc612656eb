"""What dbt says of a run, event by event: what may be shown of it, and why it failed.

dbt writes its log as JSON. The texts of its errors quote what ClickHouse says, and ClickHouse quotes values: of an error
only codes and names pass.

.. no_pii: names of models and tests, codes of errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sink.errors import AspectsPiiError, BuildError, UsageError
from sink.progress import tell

# dbt's events that carry names, counts and times, and nothing that ClickHouse said.
_SHOWN_EVENTS = (
    "FoundStats",
    "LogModelResult",
    "LogTestResult",
    "LogSkipBecauseError",
    "SkippingDetails",
    "JinjaLogInfo",
    "NoNodesForSelectionCriteria",
    "NothingToDo",
    "FinishedRunningStats",
    "StatsLine",
)
_RESULTS = ("LogModelResult", "LogTestResult")
_FAILED = ("error", "fail", "runtime error")

# Of these the compiler, not ClickHouse, is the author.
_COMPILER_ERRORS = ("Compilation Error", "Parsing Error", "Contract Error", "This model has an enforced contract")
_MAX_REASON_CHARACTERS = 500


@dataclass
class DbtResult:
    """What a run of dbt came to, collected from its events."""

    failed: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def read_event(self, line: str, report: Callable[[str], None]) -> None:
        """Pass on what one line of dbt's log says, and remember failures."""
        try:
            event = json.loads(line)
            name, message, data = event["info"]["name"], str(event["info"]["msg"]), event.get("data", {})
        except (ValueError, KeyError, TypeError):
            return
        if name in _SHOWN_EVENTS and message:
            report(message)
        if name in _RESULTS and isinstance(data.get("total"), int):
            tell("build", int(data.get("index") or 0), data["total"], "datasets and tests")
        if name in _RESULTS and _status(data) in _FAILED:
            self.failed.append(str(data["node_info"]["node_name"]))
        if event["info"].get("level") == "error" and (reason := _explain(message)) and reason not in self.reasons:
            self.reasons.append(reason)

    def explain(self, errors: str) -> AspectsPiiError:
        """Why the run failed, given what dbt wrote to standard error."""
        reasons = "; ".join(self.reasons)
        if self.failed:
            names = ", ".join(sorted(set(self.failed)))
            hint = " Run `aspects-pii init` first." if re.search(r"error (60|81)\b", reasons) else ""
            return BuildError(f"Failed: {names}.{f' {reasons}.' if reasons else ''}{hint}")
        if usage := re.search(r"^Error: (.{1,300})$", errors, re.MULTILINE):
            return UsageError(f"dbt build: {usage[1]}")
        return BuildError(f"dbt stopped before building anything. {reasons or 'Run `dbt parse` to see why'}.")


def _status(data: Mapping[str, Any]) -> str:
    return str(data.get("node_info", {}).get("node_status", "")).lower()


def _explain(message: str) -> str | None:
    """What can be said of an error: ClickHouse's code and its name, or the compiler's words."""
    if match := re.search(r"\bCode: (\d+)\b", message):
        name = re.findall(r"\(([A-Z][A-Z0-9_]+)\)", message)
        return f"ClickHouse error {match[1]}{f' ({name[-1]})' if name else ''}"
    if any(kind in message for kind in _COMPILER_ERRORS) and "DB::Exception" not in message:
        return " ".join(message.split())[:_MAX_REASON_CHARACTERS]
    return None
