"""The connection to ClickHouse and the virtual datasets of the bundle: each dataset's SQL, condition and columns."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from sink.dashboards.sources import NO_CACHE, Document, make_uuid, read_source, strip_private_keys
from sink.names import quote

# In a metadata database of SQLite, Superset 6.1.0 holds one dataset of a name, whichever connection it is of.
TABLE_PREFIX = "aspects_pii_"
DATABASE = "aspects_pii"


def compose_database(uri: str) -> Document:
    if password := urlsplit(uri).password:
        uri = uri.replace(f":{password}@", "@", 1)
    return {
        **read_source(f"databases/{DATABASE}.yaml"),
        "sqlalchemy_uri": uri,
        "uuid": make_uuid("databases", DATABASE),
    }


def compose_dataset(
    name: str, source: Document, conditions: Mapping[str, str], reporting: str, enable_pii: bool
) -> Document:
    columns = [column for column in source["columns"] if enable_pii or not column.get("_pii_only")]
    selected = ",\n    ".join(_select(column) for column in columns)
    return {
        **strip_private_keys(source),
        "table_name": TABLE_PREFIX + name,
        # Without a schema, Superset 6.1.0 does not find the rules of what a query reads (its pull request 36061 brought
        # rules to virtual datasets).
        "schema": reporting,
        "sql": (
            f"select\n    {selected}\n"
            f"from {quote(reporting)}.{quote(source['_table'])}\n"
            f"where {conditions[source['_access']]}"
        ),
        "columns": [_compose_column(column) for column in columns],
        "cache_timeout": NO_CACHE,
        "filter_select_enabled": True,
        "is_managed_externally": True,
        "uuid": make_uuid("datasets", name),
        "database_uuid": make_uuid("databases", DATABASE),
    }


def _select(column: Document) -> str:
    """What a column is, in the dataset's own SQL.

    Tables of Superset 6.1.0 do not find columns that Superset calculates.
    """
    name = quote(column["column_name"])
    expression = _compose_label(**column["_labels"]) if "_labels" in column else column.get("_expression")
    return f"{expression} as {name}" if expression else name


def _compose_column(source: Document) -> Document:
    return {
        # What is left out here, an installation over an older one would keep.
        "expression": None,
        "description": None,
        **strip_private_keys(source),
        "is_dttm": "Date" in source["type"],
        "is_active": True,
        "groupby": True,
        "filterable": True,
    }


def _compose_label(of: str, texts: Mapping[str, str], separator: str | None = None) -> str:
    """SQL that shows `texts` in place of the values of `of`, or of each of several with a separator between them."""
    values, shown = (", ".join(_literal(text) for text in side) for side in (texts, texts.values()))
    if separator is None:
        return f"transform({of}, [{values}], [{shown}], {of})"
    one = f"value -> transform(value, [{values}], [{shown}], value)"
    return f"arrayStringConcat(arrayMap({one}, splitByString({_literal(separator)}, {of})), {_literal(separator)})"


def _literal(text: str) -> str:
    """A text of ours as ClickHouse writes it. Superset's templates see it too, so it has no braces."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
