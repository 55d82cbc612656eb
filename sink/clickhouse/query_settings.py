"""Settings without which an answer is not the answer to what was asked.

An operator's profile may cut results (`limit`), have a query end early and say nothing (`read_overflow_mode = 'break'`),
leave rows out (`additional_table_filters`) or read NULL otherwise. Statements then miss rows, and a proof finds nothing.
So each session says what it needs, as far as the profile says something else.

.. no_pii: names and values of settings.
"""

from __future__ import annotations

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from sink.errors import SettingsError

# What ends a query early, or cuts what it reads or gives.
_THROWN = (
    "distinct_overflow_mode",
    "group_by_overflow_mode",
    "join_overflow_mode",
    "read_overflow_mode",
    "read_overflow_mode_leaf",
    "result_overflow_mode",
    "set_overflow_mode",
    "sort_overflow_mode",
    "timeout_overflow_mode",
    "timeout_overflow_mode_leaf",
    "transfer_overflow_mode",
)
NEEDED = {
    **dict.fromkeys(_THROWN, "throw"),
    "limit": "0",
    "offset": "0",
    # Rows that are left out.
    "additional_result_filter": "",
    "additional_table_filters": "{}",
    "apply_deleted_mask": "1",
    "apply_patch_parts": "1",
    "final": "0",
    "partial_result_on_first_cancel": "0",
    "skip_unavailable_shards": "0",
    # Results of before. The condition cache can hide rows: seen on 26.9, after a join with a runtime filter
    # (ClickHouse/ClickHouse#119823); and its entries do not tell reads with `apply_deleted_mask = 0` from others
    # (ClickHouse/ClickHouse#83262).
    "use_query_cache": "0",
    "use_query_condition_cache": "0",
    # Values of before their mutation is done, or of after it.
    "apply_mutations_on_fly": "0",
    # What a name, a number, NULL or nothing means in our statements.
    "aggregate_functions_null_for_empty": "0",
    "any_join_distinct_right_table_keys": "0",
    "cast_keep_nullable": "0",
    "data_type_default_nullable": "0",
    "empty_result_for_aggregation_by_empty_set": "0",
    # Else a tuple of columns comes from the driver as a dictionary, as from 24.8.
    "enable_named_columns_in_function_tuple": "0",
    "enable_positional_arguments": "1",
    "extremes": "0",
    "group_by_use_nulls": "0",
    "join_use_nulls": "0",
    # From 25.8 on regular expressions are rewritten, and not always to the same: until 26.1 `replaceRegexpOne` gives nothing
    # where nothing fits (ClickHouse/ClickHouse#93434, mended by #97546), so that no address was found to be anybody's; on
    # 26.9 others are wrong (ClickHouse/ClickHouse#116921).
    "optimize_rewrite_regexp_functions": "0",
    "prefer_column_name_to_alias": "0",
    "transform_null_in": "0",
    # How rows are written and deleted: an insert is there when it returns, and a DELETE hides rows in any table.
    "enable_lightweight_delete": "1",
    "lightweight_delete_mode": "alter_update",
    "wait_for_async_insert": "1",
    # What a mutation's text, which is kept, holds: names of tables, and no values that stood in them.
    "mutations_execute_nondeterministic_on_initiator": "0",
    "mutations_execute_subqueries_on_initiator": "0",
}
"""Setting -> the value that our statements need."""


_BOUND = 452
# What could cut the answer about the settings: the question says it itself, so that the answer does not tell what it was.
_SAID = (
    "limit",
    "offset",
    "additional_result_filter",
    "additional_table_filters",
    "group_by_overflow_mode",
    "read_overflow_mode",
    "timeout_overflow_mode",
)
_QUESTION = (
    "SELECT groupArray(name), groupArray(value), groupArray(readonly) FROM system.settings WHERE name IN {names:Array(String)} "
    # A number within quotes is none to ClickHouse 24.8, whose users are to read that it is too old.
    "SETTINGS limit = 0, offset = 0, additional_result_filter = '', additional_table_filters = '{}', "
    "group_by_overflow_mode = 'throw', read_overflow_mode = 'throw', timeout_overflow_mode = 'throw'"
)


def put_right(client: Client) -> None:
    """Have every statement of this connection run with what it needs. What the server does not know is left out.

    Raises:
        SettingsError: the user may not change one of them.
    """
    # The driver's own list of settings may have been cut by one of them.
    try:
        rows = client.query(_QUESTION, parameters={"names": sorted(NEEDED)}).result_rows
    except DatabaseError as error:
        if error.code != _BOUND:
            raise
        rows = []
    if not rows:
        raise _refuse("a setting that cuts answers (limit, offset, read_overflow_mode)", "those are the defaults")
    for name, value, is_bound in zip(*rows[0], strict=True):
        needed = NEEDED[name]
        if value != needed and is_bound:
            raise _refuse(f"{name} = {value}", f"{name} is {needed or 'empty'}")
        if value != needed or (name in _SAID and not is_bound):
            client.set_client_setting(name, needed)


def _refuse(bound: str, right: str) -> SettingsError:
    return SettingsError(
        f"ASPECTS_CLICKHOUSE_USER is bound to {bound}, with which ClickHouse may leave rows out of an answer, or read a "
        f"statement otherwise than it is meant. Give it a profile in which {right} or can be changed."
    )
