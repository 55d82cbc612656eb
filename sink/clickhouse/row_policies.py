"""Row policies that could hide rows from us. What is hidden looks like what is erased, so it must not count as proof."""

from __future__ import annotations

from collections.abc import Sequence

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.connection import ENGINE_OPTIONS
from sink.errors import ErasureError, ReadOnlyError
from sink.names import TableName, quote

_ALWAYS = ("1", "true")


def find_hiding_policies(client: ClickHouse, tables: Sequence[TableName]) -> dict[TableName, str]:
    """Which of `tables` may not show us every row, on any replica, and why, with the fix.

    A table with policies counts as seen in full only where one of them says so for us: on some servers whoever no
    policy is for sees nothing (`users_without_row_policies_can_read_rows`), and no query can tell that from an empty
    table.

    Raises:
        ReadOnlyError: this user may not see row policies, so that nothing is known.
        DatabaseError: the question got no answer.
    """
    try:
        rows = client.rows(
            "SELECT database, table, short_name, ifNull(select_filter, ''), is_restrictive, "
            "has(apply_to_list, currentUser()) OR hasAny(apply_to_list, enabledRoles()) OR (apply_to_all "
            "AND NOT has(apply_to_except, currentUser()) AND NOT hasAny(apply_to_except, enabledRoles())), currentUser() "
            f"FROM {client.replicas('system.row_policies')} WHERE database IN {{databases:Array(String)}}",
            databases=sorted({table.database for table in tables}),
        )
    except ReadOnlyError as error:
        if not _keeps_users(client):
            return {}
        user = quote(client.address.user)
        message = (
            "It cannot be told whether row policies hide rows. Let us see them: "
            f"GRANT SHOW ROW POLICIES ON *.* TO {user}, and GRANT SELECT ON system.row_policies TO {user}."
        )
        raise ReadOnlyError(message, error.code, error.name) from None
    hiding = {}
    for table in tables:
        # A policy without a table is for the whole database.
        found = [row for row in rows if row[0] == table.database and row[1] in (table.table, "")]
        ours = [(text in _ALWAYS, bool(restrictive)) for _, _, _, text, restrictive, applies, _ in found if applies]
        sees_all = any(always and not restrictive for always, restrictive in ours)
        is_narrowed = any(restrictive and not always for always, restrictive in ours)
        if found and (not sees_all or is_narrowed):
            names = ", ".join(sorted({row[2] for row in found}))
            hiding[table] = (
                f"row policies ({names}) may hide rows from user {found[0][6]}, so that nothing can be proved here. "
                "Use the user that has the sink's role of `aspects-pii access sql`, or run "
                f"CREATE ROW POLICY aspects_pii_services ON {table.sql} USING 1 TO {quote(found[0][6])}"
            )
    return hiding


def _keeps_users(client: ClickHouse) -> bool:
    """False for the embedded engine, which has no file and no storage that users or policies could be in."""
    if client.address.is_embedded:
        # Only a file that it is started with would have some.
        return "users_config" in ENGINE_OPTIONS
    try:
        directories = client.rows("SELECT type, params FROM system.user_directories")
    except ReadOnlyError:
        return True
    return directories != [("users_xml", "{}")]


def require_no_row_policy(client: ClickHouse, tables: Sequence[TableName]) -> None:
    """Stop where rows may be hidden from us.

    Raises:
        ErasureError: names the tables, the policies and the fix.
        DatabaseError: it cannot be told.
    """
    if hiding := find_hiding_policies(client, tables):
        raise ErasureError("\n".join(f"{table}: {reason}" for table, reason in hiding.items()))
