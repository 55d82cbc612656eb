"""How values are written into files: JSON Lines as they are, CSV so that no spreadsheet takes one for a formula.

.. no_pii: expressions over columns.
"""

from __future__ import annotations

import re

from sink.names import quote

# What a profile of the server may have set otherwise: a result that ends early looks like a whole one.
_WHOLE = (
    "result_overflow_mode = 'throw', read_overflow_mode = 'throw', timeout_overflow_mode = 'throw', "
    "skip_unavailable_shards = 0"
)
JSON_LINES = (
    f"SETTINGS {_WHOLE}, output_format_json_array_of_rows = 0, "
    "date_time_output_format = 'iso', output_format_json_quote_denormals = 1, output_format_json_quote_decimals = 1, "
    "output_format_json_quote_64bit_integers = 0, output_format_json_escape_forward_slashes = 0, "
    "output_format_json_named_tuples_as_objects = 1, output_format_json_validate_utf8 = 1 FORMAT JSONEachRow"
)
"""Ends a query. Bytes that are no UTF-8 become U+FFFD: JSON has no other way, and the CSV has them as they are."""
CSV = (
    f"SETTINGS {_WHOLE}, date_time_output_format = 'iso', format_csv_delimiter = ',', format_csv_null_representation = '', "
    "output_format_csv_crlf_end_of_line = 0 FORMAT CSV"
)
"""Ends a query."""

# Types of which no value begins a formula.
_PLAIN = re.compile(r"(U?Int|Float|BFloat|Decimal|Bool|Date|Time|UUID|IPv4|IPv6|Nothing|Interval)")
_WRAPPERS = re.compile(r"(?:LowCardinality\(|Nullable\()*")
# States of aggregate functions are bytes, and no text.
_STATE = "AggregateFunction("
# What spreadsheets pass over in front of a formula: blanks of any kind, and what has no width.
_BLANK = r"[\\x00-\\x20\\x7f-\\xa0\\pZ\\p{Cf}]"
# In Chinese and Japanese settings the wide ones begin a formula as well.
_SIGNS = "=+\\\\-@＝＋－＠"
_FORMULA = rf"^(?:[\\t\\r]|{_BLANK}*[{_SIGNS}])"
# What other settings than ours take for the end of a cell, or of a row.
_INNER = rf"([;\\t\\r\\n]{_BLANK}*)([{_SIGNS}])"
_NUMBER = r"^[+\\-]?(?:[0-9]+(?:[.][0-9]*)?|[.][0-9]+)(?:[eE][+\\-]?[0-9]+)?$"


def express_json_cell(column: str, kind: str) -> str:
    """A column as a JSON line has it, with its name."""
    return f"hex({quote(column)}) AS {quote(column)}" if kind.startswith(_STATE) else quote(column)


def express_csv_cell(column: str, kind: str) -> str:
    """A column as CSV has it: numbers and times as they are, of everything else what a spreadsheet shows as text."""
    if kind.startswith(_STATE):
        return f"hex({quote(column)})"
    if _PLAIN.match(_WRAPPERS.sub("", kind, count=1)):
        return quote(column)
    return express_disarmed(f"toString({quote(column)})")


def express_disarmed(text: str) -> str:
    """A text with an apostrophe before whatever begins a formula; numbers stay numbers, NULL stays NULL."""
    inner = f"replaceRegexpAll({text}, '{_INNER}', '\\\\1\\'\\\\2')"
    disarmed = f"if(match({text}, '{_FORMULA}'), concat('\\'', {inner}), {inner})"
    return f"if(match({text}, '{_NUMBER}'), {text}, {disarmed})"
