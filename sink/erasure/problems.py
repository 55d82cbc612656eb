"""What is to be put right: why a rule of the map cannot be carried out on the table that it names."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from sink.clickhouse.catalog import Table, is_json, is_nullable, is_text
from sink.pii_map import Redaction, Rule


@dataclass(frozen=True)
class Problem:
    """Something to put right, with the fix."""

    place: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}. {self.fix}"


def find_problems(target: str, rule: Rule, table: Table, secret: SecretStr | None) -> list[Problem]:
    """Hold a rule of `target`, as the map names it, against the live schema."""
    place = f"targets.{target}"
    if not table.is_merge_tree:
        fix = "Name the MergeTree table that holds them, and put this one under `derived`."
        return [Problem(place, f"rows of a {table.engine} cannot be erased", fix)]
    exempt = [rule.on_retire.unless.column] if rule.on_retire.unless else []
    problems = []
    for path in [rule.key, *rule.on_retire.redact, *exempt]:
        column, dot, _ = path.partition(".")
        kind = table.columns.get(column)
        if dot and path in table.columns:
            reason = f"{path} is an element of a Nested column, by which no rows are found and which is not redacted"
            problems.append(Problem(place, reason, "Delete the rows, by another column."))
        elif kind is None:
            problems.append(Problem(place, f"there is no column {column}", "Correct the map."))
        elif dot and not (is_json(kind) or is_text(kind)):
            reason = f"{path} is a path into {column}, which is {kind} and not JSON"
            problems.append(Problem(place, reason, "Correct the map."))
    for path, redaction in rule.on_retire.redact.items():
        kind = table.columns.get(path.partition(".")[0])
        if kind is not None:
            is_updated = path in table.key_columns and not rule.on_retire.delete
            found = _explain_misfits(redaction, path, kind, secret, is_updated_in_key=is_updated)
            problems += [Problem(f"{place}.redact.{path}", reason, fix) for reason, fix in found]
    return problems


def _explain_misfits(
    redaction: Redaction, path: str, kind: str, secret: SecretStr | None, *, is_updated_in_key: bool
) -> list[tuple[str, str]]:
    """Why a redaction cannot be carried out, as (reason, fix)."""
    misfits = []
    if is_updated_in_key and redaction.kind != "pseudonym":
        misfits.append(
            (
                "the column is in the sort or partition key, which ClickHouse cannot update",
                "Use `pseudonym`, which rewrites the rows, or delete them.",
            )
        )
    if "." in path:
        if redaction.kind in ("default", "expression"):
            fix = "Use `null`, `empty`, `constant`, `truncate`, `hash` or `pseudonym`."
            misfits.append((f"{redaction.kind} cannot be put into JSON", fix))
    elif redaction.kind == "null" and not is_nullable(kind):
        misfits.append((f"null does not fit into {kind}", "Use `default` or `empty`."))
    elif redaction.kind in ("empty", "constant", "truncate", "hash", "pseudonym") and not is_text(kind):
        misfits.append((f"{redaction.kind} needs a text column, and this is {kind}", "Use `default` or `null`."))
    if redaction.kind in ("hash", "pseudonym") and secret is None:
        fix = "Set it to at least 16 secret characters."
        misfits.append(("a keyed hash needs ASPECTS_PSEUDONYM_SECRET", fix))
    return misfits
