"""Values of the LMS in SQL, as `sink.lms.values` makes them in Python; and which values are plain enough for that.

Plain is what nearly every value is. A row with any other value is left to Python, whatever comes of it there: so both ways
give the same rows, and name the same bad ones.

.. no_pii: expressions on quoted names.
"""

from __future__ import annotations

from sink.lms.values import MAX_TEXT_BYTES, LmsColumn

# What `toString` makes of a time, whatever the user's profile says.
SETTINGS = {"date_time_output_format": "simple"}
_TIME = "^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?([+-][0-9]{2}:[0-9]{2})?$"
_UUID = "^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})$"
# In these the engine's times are exact, whatever the time zone.
_YEARS = "'1901' AND '2261'"


def express_stored(source: LmsColumn, column: str) -> str:
    """What is stored of a value, in SQL.

    Args:
        source: the column of the LMS.
        column: the expression of what the LMS gave, NULL or not.
    """
    if source.kind == "int":
        return f"ifNull({_read_number(column)}, 0)"
    if source.kind == "digits":
        return f"ifNull(toString({_read_number(column)}), '')"
    if source.kind == "uuid":
        return f"toUUIDOrZero({_read_text(column)})"
    if source.kind == "datetime":
        moment = f"toString({_read_moment(column)})"
        fraction = f"if(endsWith({moment}, '.000000'), '', substring({moment}, 20))"
        return f"ifNull(concat(substring({moment}, 1, 10), 'T', substring({moment}, 12, 8), {fraction}, 'Z'), '')"
    return _read_text(column)


def express_plain(source: LmsColumn, column: str) -> str:
    """The condition under which `express_stored` is what Python makes of a value; 0 or 1, never NULL."""
    if source.kind == "int":
        return f"isNotNull({_read_number(column)})"
    if source.kind == "digits":
        return f"(isNull({column}) OR isNotNull({_read_number(column)}))"
    if source.kind == "uuid":
        return f"match({_read_text(column)}, '{_UUID}')"
    if source.kind == "datetime":
        return f"(isNull({column}) OR ({_is_time(column)}))"
    if source.max_length is None:
        return f"isValidUTF8({_read_text(column)}) AND length({_read_text(column)}) <= {int(MAX_TEXT_BYTES)}"
    return f"isValidUTF8({_read_text(column)}) AND lengthUTF8({_read_text(column)}) <= {int(source.max_length)}"


def _read_text(column: str) -> str:
    return f"ifNull(toString({column}), '')"


def _read_number(column: str) -> str:
    return f"toInt64OrNull({_read_text(column)})"


def _read_moment(column: str) -> str:
    return f"parseDateTime64BestEffortOrNull({_read_text(column)}, 6, 'UTC')"


def _is_time(column: str) -> str:
    """Written as we know it, and a day and an hour that there are."""
    text = _read_text(column)
    clock = f"replaceOne(substring({text}, 1, 19), 'T', ' ')"
    is_real = f"ifNull(toString(parseDateTime64BestEffortOrNull({clock}, 0, 'UTC')) = {clock}, 0)"
    return (
        f"match({text}, '{_TIME}') AND substring({text}, 1, 4) BETWEEN {_YEARS} AND {is_real} "
        f"AND isNotNull({_read_moment(column)})"
    )
