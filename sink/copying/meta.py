"""`meta` of a profile, key by key: the LMS keeps there what has no column, and not all of it is for reports.

It is a JSON object in a text. The LMS itself writes into it, besides the fields that an operator adds to the
registration form (`extended_profile_fields` of the site configuration):

- `session_id`: the key of the session, saved anew at every login and logout where PREVENT_CONCURRENT_LOGINS is on
  (`UserProfile.set_login_session` in common/djangoapps/student/models/user.py)
- `old_names`: former names, each with who asked for the change and when (user_api/accounts/api.py)
- `old_emails`: former addresses, each with its time (student/views/management.py)

So `keep` of the map names the keys, as `meta.KEY`. All others are never stored, and go from what was stored before.

.. pii: Takes keys out of the profile's extended fields.
.. pii_types: other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from sink.clickhouse.client import WAIT_FOR_MUTATIONS, ClickHouse
from sink.names import TableName

META = "meta"
#: Whoever has it can be the user.
_NEVER = ("session_id",)
_OTHER_KEYS = (
    f"({META} != '' AND (NOT isValidJSON({META}) OR JSONType({META}) != 'Object' "
    f"OR arrayExists(key -> NOT has({{keys:Array(String)}}, key), JSONExtractKeys({META}))))"
)
_PAIRS = f"arrayFilter(pair -> has({{keys:Array(String)}}, pair.1), JSONExtractKeysAndValuesRaw({META}))"
# As `pick` writes it, so that the next comparison finds no difference.
_PICKED = (
    f"if(empty({_PAIRS}), '', concat('{{', arrayStringConcat("
    f"arrayMap(pair -> concat(toJSONString(pair.1), ': ', pair.2), arraySort(pair -> pair.1, {_PAIRS})), ', '), '}}'))"
)


def explain_keep(keep: Iterable[str]) -> tuple[str, str] | None:
    """Why `keep` of a target cannot be, as (reason, fix): the whole of `meta`, or a key that is never stored."""
    for entry in keep:
        column, _, key = entry.partition(".")
        if column == META and not key:
            fix = f"Write `{META}.KEY` for each extended profile field that your reports need, or leave it out."
            return f"`{META}` is kept key by key", fix
        if column == META and key in _NEVER:
            return f"{entry} is never stored, as it opens the user's session", "Take it out."
    return None


def split_keep(keep: Iterable[str]) -> tuple[list[str], tuple[str, ...]]:
    """What `keep` of a target says: the columns, `meta` among them where a key of it is kept, and these keys."""
    columns: list[str] = []
    keys: list[str] = []
    for entry in keep:
        column, _, key = entry.partition(".")
        if column != META:
            columns.append(entry)
            continue
        keys.append(key)
        if META not in columns:
            columns.append(META)
    return columns, tuple(sorted(set(keys)))


def pick(text: str, keys: Iterable[str]) -> str:
    """What is stored of a `meta`: these keys, in order, or nothing where it has none of them or is no JSON object."""
    try:
        found = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return ""
    picked = {key: found[key] for key in keys if key in found} if isinstance(found, dict) else {}
    return json.dumps(picked, sort_keys=True) if picked else ""


def drop_other_keys(client: ClickHouse, table: TableName, keys: tuple[str, ...], *, dry_run: bool) -> bool:
    """Take every other key out of what is stored; whether there was any."""
    found = client.value(f"SELECT count() FROM {table.sql} WHERE {_OTHER_KEYS}", None, keys=list(keys))
    if found and not dry_run:
        client.execute(
            f"ALTER TABLE {table.sql} {client.on_cluster} UPDATE {META} = {_PICKED} WHERE {_OTHER_KEYS}",
            WAIT_FOR_MUTATIONS,
            keys=list(keys),
        )
    return bool(found)
