"""What is to be put right: why a rule of the map cannot be carried out on the table that it names."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from sink.clickhouse.catalog import Table, find_length, is_json, is_nullable, is_text
from sink.clickhouse.client import ClickHouse
from sink.erasure.expressions import explain_refusal
from sink.erasure.json_paths import fits_path
from sink.erasure.keys import explain_misfit
from sink.erasure.pseudonyms import LONGEST as LONGEST_PSEUDONYM
from sink.erasure.swap import keeps_rows_apart
from sink.pii_map import PiiMap, Redaction, Rule, Target


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
            if is_updated and not keeps_rows_apart(table.engine):
                reason = f"a {table.engine} could add rows with a new key to those of others"
                problems.append(Problem(f"{place}.redact.{path}", reason, "Delete the rows instead."))
                continue
            found = _explain_misfits(redaction, path, kind, secret, is_updated_in_key=is_updated)
            problems += [Problem(f"{place}.redact.{path}", reason, fix) for reason, fix in found]
    return problems


def find_key_problems(pii_map: PiiMap, target_name: str, rule: Rule, table: Table) -> list[Problem]:
    """Why no row of anybody would be found: the key's type cannot hold what the map says."""
    misfit = explain_misfit(pii_map, rule, table)
    return [Problem(f"targets.{target_name}.match.{rule.key}", *misfit)] if misfit else []


def find_expression_problems(
    client: ClickHouse, target_name: str, target: Target, rule: Rule, table: Table
) -> list[Problem]:
    """Have the engine look at what only it can tell: expressions, and values for paths that have types.

    Raises:
        DatabaseError: the engine cannot be asked.
    """
    refusals = [
        (path, explain_refusal(client, table, rule, target.listed_columns, path))
        for path, redaction in rule.on_retire.redact.items()
        if redaction.kind == "expression"
    ]
    refusals += [
        (path, _explain_path(client, path, redaction, table))
        for path, redaction in rule.on_retire.redact.items()
        if "." in path
    ]
    return [Problem(f"targets.{target_name}.redact.{path}", *refusal) for path, refusal in refusals if refusal]


def _explain_path(client: ClickHouse, path: str, redaction: Redaction, table: Table) -> tuple[str, str] | None:
    """Why what takes a value's place cannot stand at a path that has a type, as (reason, fix); None where it can."""
    column, *keys = path.split(".")
    if fits_path(client, table.columns[column], keys, _make_sample(redaction)):
        return None
    fix = "Declare the path as String (or, for `null`, as Nullable), use another redaction, or delete the rows."
    return f"{redaction.kind} does not fit {'.'.join(keys)} in {table.columns[column]}", fix


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
    elif redaction.kind in ("empty", "constant", "truncate", "hash", "pseudonym", "person") and not is_text(kind):
        misfits.append((f"{redaction.kind} needs a text column, and this is {kind}", "Use `default` or `null`."))
    elif (length := find_length(kind)) and (needed := _find_needed(redaction)) > length:
        misfits.append(
            (f"{redaction.kind} needs {needed} bytes, and this is {kind}", "Use `empty`, or a wider column.")
        )
    if redaction.kind in ("hash", "pseudonym", "person") and secret is None:
        fix = "Set it to at least 16 secret characters."
        if redaction.kind == "person":
            fix = "Run `aspects-pii init`, which makes a key, or set it to at least 16 secret characters."
        misfits.append(("a keyed hash needs ASPECTS_PSEUDONYM_SECRET", fix))
    return misfits


def _make_sample(redaction: Redaction) -> str | None:
    """What can take a value's place."""
    if redaction.kind in ("hash", "pseudonym"):
        return "0" * _find_needed(redaction)
    return {"null": None, "constant": redaction.constant, "truncate": "x" * redaction.length}.get(redaction.kind, "")


def _find_needed(redaction: Redaction) -> int:
    """Bytes of what takes a value's place."""
    if redaction.kind == "constant":
        return len(redaction.constant.encode())
    return {"hash": 32, "pseudonym": LONGEST_PSEUDONYM}.get(redaction.kind, 0)
