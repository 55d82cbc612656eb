-- As before, said with `if`. Asked `NOT is_voided` or `NOT is_ahead` of the view before, ClickHouse 25.8 looks at the indexes of the
-- entries as if there were no NOT, and finds no entry at all (ClickHouse/ClickHouse#88536, mended by #93017; 24.8 and 26.9 do not).

-- Every entry, with what is known of it.
-- .. no_pii: as the entries.
CREATE OR REPLACE VIEW $pii_ledger.marked_entries $on_cluster AS
SELECT
    subject,
    at,
    action,
    request,
    actor,
    detail,
    -- The name of an entry, which `ledger void` takes: the same wherever and however often it is written.
    lower(hex(substring(SHA256(concat(
        subject, char(0), toString(toUnixTimestamp64Micro(at)), char(0), toString(action), char(0), toString(request)
    )), 1, 8))) AS entry,
    -- By the request first, since that needs no digest. What takes an entry out can itself be taken out.
    if(
        request IN (SELECT request FROM $pii_ledger.entries WHERE action = 'voided'),
        entry IN (
            SELECT JSONExtractString(detail, 'entry') FROM $pii_ledger.entries
            WHERE action = 'voided' AND lower(hex(substring(SHA256(concat(
                subject, char(0), toString(toUnixTimestamp64Micro(at)), char(0), toString(action), char(0), toString(request)
            )), 1, 8))) NOT IN (SELECT JSONExtractString(detail, 'entry') FROM $pii_ledger.entries WHERE action = 'voided')
        ),
        0
    ) AS is_voided,
    if(at > now64(6, 'UTC') + toIntervalDay(1), 1, 0) AS is_ahead,
    -- A time that cannot be is taken as the earliest: a request counts, and whatever really happened comes after it.
    if(is_ahead OR at < toDateTime64(0, 6, 'UTC'), toDateTime64(0, 6, 'UTC'), at) AS counted_at,
    -- As sink/pii_map.py has it.
    match(subject, '^[^.@/\\\\\\x00-\\x20\\x7f][^@/\\\\\\x00-\\x20\\x7f]{0,254}$') AS has_subject
FROM $pii_ledger.entries;
