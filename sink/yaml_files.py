"""YAML files that are read into a model: no key is written twice, and what is wrong is said by its path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sink.errors import MapError
from sink.invalid_values import explain_invalid

Model = TypeVar("Model", bound=BaseModel)

# Python's stack and memory would end otherwise: an alias is a word in the file, and whoever walks through what was read
# comes to all that it stands for, each time.
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 50
_MAX_VALUES = 100_000
# PyYAML takes 1:59:59:… for one number, in time that grows with the square of its length.
_MAX_TEXT = 10_000


# libyaml's parser, where PyYAML was built with it, is some ten times as fast; each command reads the map.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_Loader):  # type: ignore[misc, valid-type]
    """YAML takes the last of two equal keys; in a list of what to erase that would lose one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise MapError(f"line {key_node.start_mark.line + 1}: a key is a plain word")
            key = self.construct_object(key_node)
            if key in seen:
                raise MapError(f"line {key_node.start_mark.line + 1}: {key} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def explain_problem(problem: Any, _data: dict[str, Any]) -> str:
    """What pydantic found, as `path.of.the.line: message`."""
    return f"{'.'.join(map(str, problem['loc']))}: {explain_invalid(problem)}"


def load_model(
    path: Path,
    model: type[Model],
    *,
    setting: str,
    explain: Callable[[Any, dict[str, Any]], str] = explain_problem,
) -> Model:
    """Read and validate a file.

    Args:
        path: the file.
        model: what it holds.
        setting: the setting that names the file, for whoever has misspelt it.
        explain: makes a line of a problem that pydantic found and of what the file says.

    Raises:
        MapError: names the file, the path of the line and what is wrong with it.
    """
    try:
        data = yaml.load(_read_bounded(path), _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise MapError(f"{path}: {error.strerror}. Check {setting}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise MapError(f"{path}: {where}not valid YAML ({getattr(error, 'problem', 'not UTF-8')})") from None
    except MapError as error:
        raise MapError(f"{path}: {error}") from None
    except Exception:
        # Whatever PyYAML stumbles over in a value; its message quotes the value.
        raise MapError(f"{path}: not valid YAML (a date or a number that there cannot be)") from None
    if not isinstance(data, dict):
        raise MapError(f"{path}: the map is empty or not a mapping")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise MapError(
            "\n".join(f"{path}: {explain(problem, data)}" for problem in error.errors(include_input=False))
        ) from None


def _read_bounded(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise MapError(f"the file has more than {_MAX_BYTES:,} bytes")
    text = content.decode("utf-8")
    _check_bounds(text)
    return text


@dataclass
class _Collection:
    """A list or mapping, with everything that aliases in it stand for."""

    anchor: str | None
    values: int = 1
    height: int = 1


def _check_bounds(text: str) -> None:
    """Go through the parser's events, which needs no stack, before anything is made of them."""
    named: dict[str, _Collection] = {}
    open_ones: list[_Collection] = []
    for event in yaml.parse(text, Loader=_Loader):
        found = None
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append(_Collection(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            found = open_ones.pop()
            if found.anchor:
                named[found.anchor] = found
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > _MAX_TEXT:
                raise _refuse(event, f"a value has more than {_MAX_TEXT:,} characters")
            found = _Collection(event.anchor, height=0)
            if event.anchor:
                named[event.anchor] = found
        elif isinstance(event, yaml.AliasEvent):
            # One that nothing has is the loader's to refuse.
            found = named.get(event.anchor or "")
            if any(outer.anchor == event.anchor for outer in open_ones):
                raise _refuse(event, f"*{event.anchor} stands for what it is in")
        if found and open_ones:
            outer = open_ones[-1]
            outer.values += found.values
            outer.height = max(outer.height, found.height + 1)
            if outer.values > _MAX_VALUES:
                raise _refuse(event, f"there are more than {_MAX_VALUES:,} values, counting what aliases stand for")
        if len(open_ones) + (found.height if found else 0) > _MAX_DEPTH:
            raise _refuse(event, f"there are more than {_MAX_DEPTH} lists or mappings in one another")


def _refuse(event: yaml.Event, reason: str) -> MapError:
    line = event.start_mark.line + 1 if event.start_mark else 1
    return MapError(f"line {line}: {reason}")
