"""YAML files that are read into a model: no key is written twice, and what is wrong is said by its path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sink.errors import MapError

Model = TypeVar("Model", bound=BaseModel)


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
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"


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
        data = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise MapError(f"{path}: {error.strerror}. Check {setting}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise MapError(f"{path}: {where}not valid YAML ({getattr(error, 'problem', 'not UTF-8')})") from None
    except MapError as error:
        raise MapError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise MapError(f"{path}: the map is empty or not a mapping")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise MapError(
            "\n".join(f"{path}: {explain(problem, data)}" for problem in error.errors(include_input=False))
        ) from None
