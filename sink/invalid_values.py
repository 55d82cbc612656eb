"""What is wrong with a value that is not valid, in our words instead of pydantic's.

.. no_pii: a value is never quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sink.wording import counted


def _say(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:,}"


def _limit(context: Mapping[str, Any], least: bool) -> str:
    limit = context["min_length" if least else "max_length"]
    # Pydantic counts the characters of a secret as it counts entries.
    words = ("entry", "entries") if context.get("field_type", "Value") != "Value" else ("character", "characters")
    return f"it has to have {'at least' if least else 'at most'} {counted(limit, *words)}"


# By the type of pydantic's problem (https://docs.pydantic.dev/latest/errors/validation_errors/): what is wanted.
_WORDS: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = {
    "missing": "is missing",
    "extra_forbidden": "unknown word",
    **dict.fromkeys(("bool_parsing", "bool_type"), "it has to be true or false"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "it has to be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "it has to be a number"),
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), "it has to be a text"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), "it has to be a mapping"),
    **dict.fromkeys(("list_type", "tuple_type", "iterable_type"), "it has to be a list"),
    "path_type": "it has to be the path of a file or folder",
    "none_required": "it has to be left out",
    "greater_than_equal": lambda context: f"it has to be {_say(context['ge'])} or more",
    "greater_than": lambda context: f"it has to be more than {_say(context['gt'])}",
    "less_than_equal": lambda context: f"it has to be {_say(context['le'])} or less",
    "less_than": lambda context: f"it has to be less than {_say(context['lt'])}",
    **dict.fromkeys(("string_too_short", "too_short"), lambda context: _limit(context, least=True)),
    **dict.fromkeys(("string_too_long", "too_long"), lambda context: _limit(context, least=False)),
    "literal_error": lambda context: f"it has to be {context['expected']}",
    "enum": lambda context: f"it has to be {context['expected']}",
    "json_invalid": "it is not JSON",
    "value_error": lambda context: str(context["error"]),
    "assertion_error": "it is not what can stand here",
}


def explain_invalid(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, of one of pydantic's problems; its value is not quoted."""
    words = _WORDS.get(problem["type"], "it is not what can stand here")
    return words if isinstance(words, str) else words(problem.get("ctx") or {})
