"""The dashboards as they are written in config/dashboards: reading and translating them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import yaml

from sink.errors import SettingsError
from sink.resources import find_resource
from sink.visibility import render_visible_to

SOURCES = "config/dashboards"
SOURCE_LANGUAGE = "en"
KINDS = ("datasets", "charts", "dashboards")
# Results are not kept: a retirement has to show at once.
NO_CACHE = -1
# Keys of what people read, wherever they stand in a source file; of `texts` everything is read.
_TEXT_KEYS = frozenset(
    {
        "dashboard_title",
        "slice_name",
        "verbose_name",
        "description",
        "subheader",
        "x_axis_title",
        "name",
        "label",
        "pii",
        "no_pii",
    }
)

Document = dict[str, Any]


def list_languages() -> list[str]:
    """The languages that there are, the source's first."""
    return [SOURCE_LANGUAGE, *sorted(path.parent.name for path in find_resource(SOURCES).glob("locale/*/locale.yaml"))]


def read_source(name: str) -> Any:
    return yaml.safe_load((find_resource(SOURCES) / name).read_text(encoding="utf-8"))


def read_sources(kind: str) -> dict[str, Document]:
    paths: list[Path] = sorted((find_resource(SOURCES) / kind).glob("*.yaml"))
    return {path.stem: read_source(f"{kind}/{path.name}") for path in paths}


def read_translated(language: str, *, enable_pii: bool) -> dict[str, dict[str, Document]]:
    """The sources by kind and name, in a language; without PII, those that need none.

    Raises:
        SettingsError: there is no translation into the language.
    """
    translations = _read_translations(language)
    return {
        kind: {
            name: _translate(source, translations)
            for name, source in read_sources(kind).items()
            if enable_pii or not source.get("_pii_only")
        }
        for kind in KINDS
    }


def read_access(reporting: str) -> Document:
    """`access.yaml`, with the conditions as Superset takes them."""
    access: Document = read_source("access.yaml")
    visible = render_visible_to(access["viewer"], reporting)
    access["conditions"] = {
        name: Template(condition).substitute(visible_to_viewer=visible)
        for name, condition in access["conditions"].items()
    }
    return access


def _read_translations(language: str) -> Mapping[str, str]:
    if language not in list_languages():
        raise SettingsError(
            f"ASPECTS_SUPERSET_LANGUAGE is not valid: there is no translation into it. "
            f"Choose one of {', '.join(list_languages())}."
        )
    return {} if language == SOURCE_LANGUAGE else read_source(f"locale/{language}/locale.yaml")[language]


def _translate(source: Any, translations: Mapping[str, str], readable: bool = False) -> Any:
    if isinstance(source, str):
        return translations.get(source, source) if readable else source
    if isinstance(source, dict):
        return {
            key: _translate(value, translations, readable or key in _TEXT_KEYS or key == "texts")
            for key, value in source.items()
        }
    return [_translate(value, translations, readable) for value in source] if isinstance(source, list) else source


def make_uuid(kind: str, name: str) -> str:
    """The uuid of an asset, the same in each language and installation: what is installed again replaces itself."""
    return str(uuid5(NAMESPACE_URL, f"urn:aspects-pii:superset:{kind}:{name}"))


def strip_private_keys(source: Document) -> Document:
    return {key: value for key, value in source.items() if not key.startswith("_")}
