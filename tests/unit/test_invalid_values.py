"""What is wrong with values, as people are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sink.doors.events.json_events import load_event_map
from sink.errors import MapError, SettingsError
from sink.invalid_values import explain_invalid
from sink.pii_map import load_map
from sink.resources import find_resource
from sink.settings import Settings, load_settings

# How pydantic begins what it says of itself.
FOREIGN = ("Input should", "should have", "Value error", "Field required", "Extra inputs", "String should", "Assertion")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("ENABLE_PII", "maybe", "it has to be true or false. Example: ASPECTS_ENABLE_PII=true"),
        ("CLICKHOUSE_RETRIES", "-1", "it has to be 0 or more. Example: ASPECTS_CLICKHOUSE_RETRIES="),
        ("SYNC_BATCH_SIZE", "many", "it has to be a whole number. Example: ASPECTS_SYNC_BATCH_SIZE="),
        ("RETIRE_MAX_SHARE", "half", "it has to be a number. Example: ASPECTS_RETIRE_MAX_SHARE="),
        ("WEB_TOKEN", "short", "it has to have at least 16 characters. Example: ASPECTS_WEB_TOKEN="),
        ("CLICKHOUSE_URL", "ftp://x", "the address must begin with chdb://, http:// or https://. Example: "),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_wanted(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"ASPECTS_{setting}", value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert f"ASPECTS_{setting} is not valid: {said}" in str(raised.value)
    assert value == "" or value not in str(raised.value).partition("Example")[0]


def test_no_setting_is_refused_in_words_of_pydantic(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"ASPECTS_{name.upper()}" for name in Settings.model_fields]
    assert len(names) > 40
    refused: list[str] = []
    for name in names:
        for value in ("", "-1", "\x00", "999999999999999999999999", "x"):
            with monkeypatch.context() as patch:
                try:
                    patch.setenv(name, value)
                except ValueError:
                    continue
                try:
                    load_settings()
                except SettingsError as error:
                    refused.append(str(error))
    assert len(refused) > 30
    assert not [message for message in refused if any(word in message for word in FOREIGN)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pii": []}, "targets.t.t.pii: it has to be a mapping"),
        ({"pii": {}}, "targets.t.t.pii: it has to have at least 1 entry"),
        ({"pii": {"a": "nickname"}}, "targets.t.t.pii.a: it has to be 'id', 'name',"),
        ({"owned": "perhaps"}, "targets.t.t.owned: it has to be true or false"),
        ({"keep": 3}, "targets.t.t.keep: it has to be a list"),
        ({"keep": [3]}, "targets.t.t.keep.0: it has to be a text"),
        ({"kept": []}, "targets.t.t.kept: unknown word; see `aspects-pii docs map`"),
        ({"match": None}, "targets.t.t.match: it has to be a mapping"),
        ({"on_retire": {"redact": {"a": {"truncate": -1}}}}, "it has to be 0 or more"),
        ({"on_retire": {"redact": {"a": "never"}}}, "a redaction is null, empty,"),
    ],
)
def test_a_wrong_map_is_refused_in_our_words(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    target = {"match": {"a": "id"}, "pii": {"a": "name"}, "on_retire": "delete", **change}
    path = tmp_path / "pii.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "subject": {}, "targets": {"t.t": target}}))
    with pytest.raises(MapError) as raised:
        load_map(path)
    assert said in str(raised.value)
    assert not [word for word in FOREIGN if word in str(raised.value)]


def test_a_wrong_mapping_of_events_is_refused_in_our_words(tmp_path: Path) -> None:
    document = yaml.safe_load(find_resource("config/events.yaml").read_text())
    for rule in document["events"].values():
        rule["action"] = "forget"
    path = tmp_path / "events.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(MapError, match="action: it has to be 'retire', 'sync', 'reassign' or 'role'") as raised:
        load_event_map(path)
    assert not [word for word in FOREIGN if word in str(raised.value)]


def test_what_nobody_has_put_into_words_is_not_said_in_pydantics(tmp_path: Path) -> None:
    class Model(BaseModel):
        model_config = ConfigDict(extra="forbid")
        a: complex = Field()

    with pytest.raises(ValidationError) as raised:
        Model.model_validate({"a": "hunter2"})
    assert [explain_invalid(dict(problem)) for problem in raised.value.errors()] == ["it is not what can stand here"]
