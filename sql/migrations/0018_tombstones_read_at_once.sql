-- The tombstones as before, read without asking more than is needed: of nearly everybody there is one request, and nothing that
-- could take it back, so that it is a tombstone whatever else was recorded. Measured in docs/performance.md.

-- A request stands once its erasure has begun, whatever is withdrawn or taken out, and else until it is withdrawn.
-- .. no_pii: opaque user ids and times.
CREATE OR REPLACE VIEW $pii_ledger.tombstones $on_cluster AS
SELECT
    subject,
    -- 0 is no user's id: subjects with keys of another kind never match a user.
    toInt64OrZero(subject) AS user_id,
    min(asked_at) AS retired_at
FROM
(
    SELECT
        subject,
        -- As in marked_entries: a time that cannot be is taken as the earliest.
        if(at > now64(6, 'UTC') + toIntervalDay(1) OR at < toDateTime64(0, 6, 'UTC'), toDateTime64(0, 6, 'UTC'), at) AS asked_at
    FROM $pii_ledger.entries
    WHERE action = 'requested'
        AND match(subject, '^[^.@/\\\\\\x00-\\x20\\x7f][^@/\\\\\\x00-\\x20\\x7f]{0,254}$')
        AND request NOT IN (SELECT request FROM $pii_ledger.entries WHERE action IN ('withdrawn', 'voided'))
    UNION ALL
    SELECT
        subject,
        minIf(counted_at, action = 'requested') AS asked_at
    FROM $pii_ledger.marked_entries
    WHERE has_subject
        AND action IN ('requested', 'withdrawn', 'found', 'hidden', 'erased', 'reopened')
        AND request IN (SELECT request FROM $pii_ledger.entries WHERE action IN ('withdrawn', 'voided'))
    GROUP BY subject, request
    HAVING countIf(action = 'requested') > 0
        AND (
            countIf(action IN ('found', 'hidden', 'erased', 'reopened')) > 0
            OR (
                countIf(action = 'requested' AND NOT is_voided) > 0
                AND (
                    countIf(action = 'withdrawn' AND NOT is_voided AND NOT is_ahead) = 0
                    OR maxIf(counted_at, action = 'requested' AND NOT is_voided)
                        > maxIf(counted_at, action = 'withdrawn' AND NOT is_voided AND NOT is_ahead)
                )
            )
        )
)
GROUP BY subject;
