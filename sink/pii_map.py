"""The PII map: the one list of where personally identifying information lives.

Everything that copies, erases, verifies, exports, purges or annotates derives from it. A map is a YAML
file; `load_map` validates it into frozen models whose errors name the path of the line, such as
`targets.event_sink.user_profile.pii.name`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sink.invalid_values import explain_invalid
from sink.names import LITERAL, check_name, list_former_databases
from sink.yaml_files import load_model

# OEP-30's types of PII, as .pii_annotations.yml of the LMS lists them.
PiiType = Literal[
    "id",
    "name",
    "username",
    "password",
    "location",
    "phone_number",
    "email_address",
    "birth_date",
    "ip",
    "external_service",
    "biography",
    "gender",
    "sex",
    "image",
    "video",
    "other",
]

# The cases of GDPR article 6 (1), a to f.
LegalBasis = Literal[
    "consent",
    "contract",
    "legal_obligation",
    "vital_interests",
    "public_task",
    "legitimate_interests",
]

DEFAULT_REPLACEMENT = "Deleted User"
# What rules call the subject's id.
SUBJECT_ID = "id"
PERSON = "person"
"""What a rule matches on and redacts by where a text speaks of people: all that they are called."""
# How a template begins whose key holds a SHA-1.
SHA1 = "sha1:"
# What systems write where they have taken a name away.
PLACEHOLDERS = ("anonymous", "deleted", "deleted user", "n/a", "none", "null", "redacted", "retired", "unknown")
# One word, and none that could be a path or an address. As sql/migrations has it.
_OPAQUE = re.compile(r"[^.@/\\\x00-\x20\x7f\ud800-\udfff][^@/\\\x00-\x20\x7f\ud800-\udfff]{0,254}")
T = TypeVar("T")
SubjectId = int | str
"""The id of a subject, as `subject.type` of the map has it."""


def _check_table(name: str) -> str:
    database, dot, table = name.partition(".")
    if not dot or "." in table:
        raise ValueError("a table is written database.table")
    check_name(database)
    check_name(table)
    return name


def _check_path(path: str) -> str:
    column, *keys = path.split(".")
    check_name(column)
    if not all(re.fullmatch(r"[^\s.'\"\\`]+", key) for key in keys):
        raise ValueError("a path into JSON is written column.key.key, without quotes, blanks or empty parts")
    return path


def _check_place(place: str) -> str:
    database, _, rest = place.partition(".")
    table, _, column = rest.partition(".")
    _check_table(f"{database}.{table}")
    # An element of a Nested column has a dot in its name.
    for part in column.split(".") if column else ():
        check_name(part)
    return place


TablePath = Annotated[str, AfterValidator(_check_table)]
ColumnPath = Annotated[str, AfterValidator(_check_path)]
TableOrColumn = Annotated[str, AfterValidator(_check_place)]
Database = Annotated[str, AfterValidator(check_name)]
Reason = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Redaction(_Model):
    """What takes the place of a value."""

    kind: Literal["null", "empty", "default", "constant", "hash", "pseudonym", "truncate", "expression", "person"]
    constant: str = DEFAULT_REPLACEMENT
    length: int = Field(default=0, ge=0, description="Characters that `truncate` leaves.")
    expression: str = ""


_TEXTS = re.compile(r"""'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_UNFIT = re.compile(r"--|/\*|[;#{}'\"`]")
_BRACKETS = {")": "(", "]": "["}


def _check_expression(text: str) -> str:
    """What can be told without the engine, which looks closer: `sink.erasure.expressions`."""
    if not text.strip():
        raise ValueError("an expression is not empty")
    code = _TEXTS.sub(" ", text)
    # A `$` would be read as the name of a database by our own client.
    if found := _UNFIT.search(code) or re.search(r"\$", text):
        raise ValueError(f"an expression is one expression without comments; it cannot have `{found[0]}`")
    opened: list[str] = []
    for character in re.findall(r"[()\[\]]", code):
        if character not in _BRACKETS:
            opened.append(character)
        elif not opened or opened.pop() != _BRACKETS[character]:
            raise ValueError("the parentheses of an expression come in pairs")
    if opened:
        raise ValueError("the parentheses of an expression come in pairs")
    return text


def _parse_redaction(value: Any) -> Any:
    if value is None or value == "null":
        return {"kind": "null"}
    if value in ("empty", "default", "hash", "pseudonym", "constant", PERSON):
        return {"kind": value}
    if isinstance(value, dict) and len(value) == 1:
        (kind, argument), *_ = value.items()
        if kind == "constant":
            return {"kind": kind, "constant": argument}
        if kind == "truncate":
            return {"kind": kind, "length": argument}
        if kind == "expression":
            return {"kind": kind, "expression": _check_expression(str(argument))}
    if isinstance(value, Redaction):
        return value
    raise ValueError(
        "a redaction is null, empty, default, hash, pseudonym, person, {constant: TEXT}, {truncate: LENGTH} or "
        "{expression: SQL}"
    )


class Exemption(_Model):
    """Rows that a retirement leaves as they are."""

    column: ColumnPath
    values: list[str] = Field(min_length=1)
    reason: str = Field(min_length=1, description="Why the law or the institution wants them kept.")


class OnRetire(_Model):
    """What a retirement does to the rows of a subject."""

    redact: dict[ColumnPath, Annotated[Redaction, BeforeValidator(_parse_redaction)]] = Field(
        default_factory=dict,
        description="Columns, or paths into JSON columns, and what takes the place of their values.",
    )
    delete: bool = Field(False, description="Delete the rows, after redacting what `redact` names.")
    retain: str | None = Field(None, min_length=1, description="Why nothing is done.")
    when: Literal["always", "redact_history"] = Field(
        "always", description="`redact_history`: only where ASPECTS_REDACT_HISTORY is on."
    )
    unless: Exemption | None = Field(None, description="Rows to leave as they are.")
    arrays: Literal["all", "first"] = Field("all", description="Which elements of an array on a path are meant.")

    @model_validator(mode="after")
    def _one_intention(self) -> OnRetire:
        if bool(self.retain) == bool(self.redact or self.delete):
            raise ValueError("say either `retain` with a reason, or `redact` and `delete`")
        return self


def _parse_on_retire(value: Any) -> Any:
    if value == "delete":
        return {"delete": True}
    if isinstance(value, dict) and "then" in value:
        if value["then"] != "delete":
            raise ValueError("`then` can only be `delete`")
        return {**{k: v for k, v in value.items() if k != "then"}, "delete": True}
    return value


class Rule(_Model):
    """Which rows of a table are a subject's, and what happens to them."""

    match: dict[ColumnPath, str] = Field(
        min_length=1,
        description="Column, or path, that names the subject, and what it holds: `id`, an identifier, or a template.",
    )
    on_retire: Annotated[OnRetire, BeforeValidator(_parse_on_retire)]

    @model_validator(mode="after")
    def _match_one_column(self) -> Rule:
        if len(self.match) != 1:
            raise ValueError("`match` names one column; write several `rules` where a table has several keys")
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError:
            raise ValueError(
                f"`match` of {self.key}: braces in a template come in pairs, such as mailto:{{email}}"
            ) from None
        if any(conversion or specification for _, _, specification, conversion in parts):
            raise ValueError(f"`match` of {self.key}: between braces there is only a name, such as mailto:{{email}}")
        return self

    @model_validator(mode="after")
    def _person_with_person(self) -> Rule:
        kinds = [redaction.kind for redaction in self.on_retire.redact.values()]
        if not self.is_about_text and PERSON not in kinds:
            return self
        if not self.is_about_text or kinds != [PERSON] or [*self.on_retire.redact] != [self.key]:
            raise ValueError(
                f"`{PERSON}` is both what a column is matched on and what is redacted in it: "
                "match: {event: person} with on_retire: {redact: {event: person}}"
            )
        if "." in self.key or self.on_retire.delete:
            raise ValueError(f"`{PERSON}` changes whole columns of text, and deletes nothing")
        return self

    @property
    def is_about_text(self) -> bool:
        """True where rows are a person's who speak of the person."""
        return self.template == f"{{{PERSON}}}"

    @property
    def is_about_actors(self) -> bool:
        """True where a column of anonymised rows may name somebody after all, and then has a pseudonym put in its place."""
        redacted = self.on_retire.redact
        is_pseudonymised = [*redacted] == [self.key] and redacted[self.key].kind == "pseudonym"
        return is_pseudonymised and "." not in self.key and not self.on_retire.delete and not self.is_by_id

    @property
    def key(self) -> str:
        """The column or path that names the subject."""
        return next(iter(self.match))

    @cached_property
    def template(self) -> str:
        """What the key holds, as a format string over `id` and the identifiers."""
        source = next(iter(self.match.values()))
        return source if "{" in source else f"{{{source}}}"

    @cached_property
    def sources(self) -> set[str]:
        """Which of `id` and the identifiers the template uses."""
        return {name for _, name, _, _ in string.Formatter().parse(self.template) if name}

    @property
    def is_hashed(self) -> bool:
        """True where the key holds the SHA-1 of the rest of the template, in hexadecimal."""
        return self.template.startswith(SHA1)

    @property
    def is_mailbox(self) -> bool:
        """True where the key holds an address as a `mailto:`, as xAPI's `mbox` does."""
        return self.template.lower().startswith("mailto:")

    @cached_property
    def affixes(self) -> tuple[str, str] | None:
        """What stands before and after the name in the key; None where the name cannot be read out of it."""
        parts = [part.split("}")[-1] for part in self.template.split("{")]
        return None if self.is_hashed or len(parts) != 2 else (parts[0], parts[1])

    @cached_property
    def label(self) -> str:
        """What keyed hashes of former names are kept under: the identifier, or the template of a whole key."""
        return self.template if self.affixes is None else next(iter(self.sources))

    @cached_property
    def is_by_id(self) -> bool:
        """True where the key holds the subject's id itself."""
        return self.template == f"{{{SUBJECT_ID}}}"


# What takes the place of a value whoever the row is about.
_FOR_EVERYBODY = ("null", "empty", "default", "constant", "truncate")


# What may be kept in a copy for development, since it is shared by many.
_KEPT_IN_COPIES = ("location", "birth_date", "gender", "sex", "other")


class Retention(_Model):
    """For how long rows of a table are kept, and what becomes of them then."""

    days: int = Field(ge=1, le=36_500, description="Days after the time in `column`.")
    column: ColumnPath = Field(description="The column with the time: a date, a time, or a text that says one.")
    redact: dict[ColumnPath, Annotated[Redaction, BeforeValidator(_parse_redaction)]] = Field(
        default_factory=dict,
        description="Columns, and what takes the place of their values; without it the rows go.",
    )

    @model_validator(mode="after")
    def _for_everybody(self) -> Retention:
        if paths := [path for path in (self.column, *self.redact) if "." in path]:
            raise ValueError(f"{paths[0]} is a path; `retention` takes whole columns")
        for column, redaction in self.redact.items():
            if redaction.kind not in _FOR_EVERYBODY:
                raise ValueError(f"`redact.{column}`: `retention` takes {', '.join(_FOR_EVERYBODY)}")
        if self.column in self.redact:
            raise ValueError(f"{self.column} says how old a row is, and is not redacted")
        return self


class Target(_Model):
    """One table with PII."""

    purpose: str | None = Field(None, min_length=1, description="What the table is kept for, in a sentence.")
    legal_basis: LegalBasis | None = Field(None, description="By which case of GDPR article 6 (1).")
    recipients: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="Who receives or sees it: kinds of people, or bodies; no names of persons."
    )
    source: str | None = Field(None, min_length=1, description="Where it is collected from.")
    retention: Retention | None = Field(
        None, description="When rows go, or columns are emptied, whoever they are about; `sweep` carries it out."
    )

    pii: dict[ColumnPath, PiiType] = Field(min_length=1, description="The columns with PII and their OEP-30 types.")
    keep: list[str] | None = Field(
        None,
        min_length=1,
        description="The columns that `sync` copies, of `meta` the keys (`meta.KEY`); the others are never stored.",
    )
    rules: list[Rule] = Field(min_length=1)
    owned: bool = Field(False, description="`reassign` hands the rows over to another user.")
    optional: bool = Field(
        False, description="Where the table is absent, nothing says so: not every installation has it."
    )
    empty_while_off: bool = Field(
        False,
        description="Other software fills the table while PII is off too: then every sweep carries out the rules for all.",
    )
    asset: ColumnPath | None = Field(
        None, description="Of an owned target: the column that says which asset a row is about, for `reassign --asset`."
    )

    anonymise_keeps: list[ColumnPath] = Field(
        default_factory=list,
        description="Columns that `anonymise` leaves as they are in a copy for development; none that tells who somebody is.",
    )

    @model_validator(mode="before")
    @classmethod
    def _single_rule(cls, data: Any) -> Any:
        if isinstance(data, dict) and "rules" not in data:
            data = dict(data)
            rule = {name: data.pop(name) for name in ("match", "on_retire") if name in data}
            return {**data, "rules": [rule]}
        return data

    @model_validator(mode="after")
    def _only_known_columns(self) -> Target:
        for rule in self.rules:
            for path in rule.on_retire.redact:
                if path not in self.pii:
                    raise ValueError(f"{path} is redacted but not listed under `pii`")
        return self

    @model_validator(mode="after")
    def _retained_by_itself(self) -> Target:
        if self.retention is None:
            return self
        if self.keep is not None:
            raise ValueError(
                "`retention` does not go with `keep`: the next `sync` would copy the rows again. What `sync` copies goes with "
                "its user, or with a column that `keep` does not list any more"
            )
        for column in self.retention.redact:
            if column not in self.pii:
                raise ValueError(f"{column} is redacted under `retention` but not listed under `pii`")
        return self

    @model_validator(mode="after")
    def _keeps_nobody(self) -> Target:
        for column in self.anonymise_keeps:
            if self.pii.get(column) not in _KEPT_IN_COPIES or any(rule.key == column for rule in self.rules):
                raise ValueError(
                    f"{column} is under `anonymise_keeps`, which takes columns that are listed under `pii` as "
                    f"{', '.join(_KEPT_IN_COPIES)} and are no key"
                )
        return self

    @model_validator(mode="after")
    def _assets_are_owned(self) -> Target:
        if self.asset is not None and not self.owned:
            raise ValueError("`asset` goes with `owned: true`")
        return self

    @model_validator(mode="after")
    def _emptied_where_they_are(self) -> Target:
        kinds = {redaction.kind for rule in self.rules for redaction in rule.on_retire.redact.values()}
        is_plain = all(rule.is_by_id and rule.on_retire.redact for rule in self.rules) and not kinds & {
            "hash",
            "pseudonym",
        }
        if self.empty_while_off and not is_plain:
            raise ValueError("`empty_while_off` goes with rules by id that redact, and not by `hash` or `pseudonym`")
        return self

    @property
    def id_column(self) -> str:
        """The column that holds the subject's id; every target that identifiers are read from has one."""
        return next(rule.key for rule in self.rules if rule.is_by_id)

    @property
    def pii_columns(self) -> set[str]:
        """The columns with PII, paths into JSON cut to their column.

        Columns that may speak of somebody are none of them where rows stay: what is made of anonymised events shows no
        PII. Where a path into such a text is listed, it has PII like any other column.
        """
        return {path.partition(".")[0] for path in self.pii if path not in self._may_name_somebody}

    @property
    def _may_name_somebody(self) -> set[str]:
        if any(rule.on_retire.delete for rule in self.rules):
            return set()
        return {rule.key for rule in self.rules if rule.is_about_text or rule.is_about_actors}

    @property
    def listed_columns(self) -> set[str]:
        """The columns under `pii`, texts that may speak of somebody included."""
        return {path.partition(".")[0] for path in self.pii}

    @property
    def is_anonymised(self) -> bool:
        """True where nothing but columns that may speak of somebody is listed, and no row is anybody's by another key."""
        return not self.pii_columns and all(rule.key in self._may_name_somebody for rule in self.rules)

    @property
    def has_texts_only(self) -> bool:
        """True where rows are anybody's by what their texts say alone, so that none is ever written anew."""
        return self.is_anonymised and all(rule.is_about_text for rule in self.rules)


class Derived(_Model):
    """A view or dictionary that shows what a target holds."""

    match: dict[ColumnPath, str] | None = Field(
        None, description="As in a target; asked when a retirement is verified."
    )
    pii: dict[ColumnPath, PiiType] = Field(default_factory=dict)

    @property
    def key(self) -> str | None:
        """The column that names the subject by id."""
        return next((column for column, source in (self.match or {}).items() if source == SUBJECT_ID), None)


def is_opaque(text: str) -> bool:
    """True for what can be an id: one word, no address and no path."""
    return _OPAQUE.fullmatch(text) is not None


class Subject(_Model):
    """How the person that a row is about is known."""

    type: Literal["integer", "text"] = Field("integer", description="Kind of the id.")
    identifiers: dict[str, str] = Field(
        default_factory=dict, description="Other names of the person: database.table.column of a target matched by id."
    )

    placeholders: list[str] = Field(
        default_factory=lambda: list(PLACEHOLDERS),
        description="What stands in the place of a name, in any case: nobody is looked for by it.",
    )

    def parse(self, text: str) -> int | str:
        """Read one id.

        Raises:
            ValueError: it is not an id of this kind.
        """
        text = text.strip()
        if self.type == "text":
            if not text:
                raise ValueError("an id is not empty")
            if not is_opaque(text):
                raise ValueError("an id is one word of up to 255 characters, without @, / and \\")
            return text
        if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
            raise ValueError("an id is a positive whole number")
        return int(text)

    def recognise(self, written: str) -> int | str | None:
        """The id that a ledger, or anything else of ours, has as a text; None where it is none as this map writes ids."""
        try:
            found = self.parse(written)
        except ValueError:
            return None
        return found if str(found) == written else None

    def sort_out(self, written: Iterable[str]) -> tuple[list[int | str], list[str]]:
        """Ids as a ledger has them: those that this map can read, and those that it cannot, in order."""
        recognised = {text: self.recognise(text) for text in written}
        return [found for found in recognised.values() if found is not None], [
            text for text, found in recognised.items() if found is None
        ]


class PiiMap(_Model):
    """The whole map."""

    version: Literal[1]
    subject: Subject
    targets: dict[TablePath, Target] = Field(min_length=1)
    derived: dict[TablePath, Derived] = Field(
        default_factory=dict, description="Views and dictionaries over the targets: reloaded and verified."
    )
    not_pii: dict[TableOrColumn, Reason] = Field(
        default_factory=dict,
        description="database.table.column, or database.table, that looks like PII and is not, with the reason.",
    )
    exempt_databases: dict[Database, Reason] = Field(
        default_factory=dict, description="Databases in which nobody looks for PII, with the reason."
    )

    former_databases: list[Literal["event_sink", "xapi", "reporting"]] = Field(
        default_factory=list,
        description="Names of the map that mean other databases here, where the ones that are called so are of before.",
    )

    @model_validator(mode="before")
    @classmethod
    def _derived_as_list(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("derived"), list):
            return {**data, "derived": {name: {} for name in data["derived"]}}
        return data

    def find_type(self, identifier: str) -> str:
        """The OEP-30 type of `id` or of an identifier."""
        table, _, column = self.subject.identifiers.get(identifier, "").rpartition(".")
        return self.targets[table].pii[column] if table else SUBJECT_ID

    @model_validator(mode="after")
    def _identifiers_are_columns(self) -> PiiMap:
        for reserved, meaning in ((SUBJECT_ID, "the subject's own id"), (PERSON, "all that a person is called")):
            if reserved in self.subject.identifiers:
                raise ValueError(f"subject.identifiers.{reserved}: `{reserved}` is {meaning}; take another name")
        for name, source in self.subject.identifiers.items():
            table, _, column = source.rpartition(".")
            target = self.targets.get(table)
            if target is None or column not in target.pii or not any(rule.is_by_id for rule in target.rules):
                raise ValueError(f"subject.identifiers.{name}: {source} is not a PII column of a target matched by id")
        for table, target in self.targets.items():
            for rule in target.rules:
                unknown = rule.sources - {SUBJECT_ID, *self.subject.identifiers} if not rule.is_about_text else set()
                if unknown or not rule.sources:
                    raise ValueError(
                        f"targets.{table}.match.{rule.key}: {', '.join(sorted(unknown)) or 'the template'} names "
                        "neither `id` nor one of subject.identifiers"
                    )
        for table in (*self.targets, *self.derived):
            if (database := table.partition(".")[0]) in self.exempt_databases:
                raise ValueError(f"exempt_databases.{database}: {table} is in it")
        return self

    def cover_former(self, databases: Mapping[str, str]) -> PiiMap:
        """The same map, and what it says of each of `former_databases` also for the one that is called so.

        Where events have gone over to `openedx`, those of before are in `xapi` still, which means `openedx` then. Nobody but the
        operator can say that a database is the one of before: it may be that of another LMS, whose users have the same ids.
        """
        former = set(self.former_databases) & list_former_databases(databases)
        if not former:
            return self

        def add_former(entries: Mapping[str, T]) -> dict[str, T]:
            marked = {f"{LITERAL}{name}": entry for name, entry in entries.items() if name.partition(".")[0] in former}
            return {**entries, **{name: entry for name, entry in marked.items() if name not in entries}}

        optional = {name: target.model_copy(update={"optional": True}) for name, target in self.targets.items()}
        return self.model_copy(
            update={
                "targets": add_former(optional) | self.targets,
                "derived": add_former(self.derived),
                "not_pii": add_former(self.not_pii),
            }
        )

    def rules(self, *, redact_history: bool) -> Iterator[tuple[str, Target, Rule]]:
        """Every rule that a retirement carries out, as (table, target, rule)."""
        for table, target in self.targets.items():
            for rule in target.rules:
                if rule.on_retire.when == "redact_history" and not redact_history:
                    continue
                if rule.on_retire.retain is None:
                    yield table, target, rule


def load_map(path: Path) -> PiiMap:
    """Read and validate a map.

    Raises:
        MapError: names the file, the path of the line and what is wrong with it.
    """
    return load_model(path, PiiMap, setting="ASPECTS_PII_MAP", explain=_explain)


def _explain(problem: Any, data: dict[str, Any]) -> str:
    place = [part for part in problem["loc"] if part != "[key]"]
    if place[2:4] == ["rules", 0] and "rules" not in data["targets"][place[1]]:
        # Written without `rules`, which stand in the model only.
        del place[2:4]
    message = explain_invalid(problem)
    if problem["type"] == "extra_forbidden":
        message += "; see `aspects-pii docs map` for what can stand here"
    # What is wrong with the map as a whole names its place itself.
    return f"{'.'.join(map(str, place))}: {message}" if place else message
