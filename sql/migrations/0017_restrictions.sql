-- Whose PII is kept and shown to nobody: who asked for a restriction (GDPR article 18) or objected (article 21).

-- A restriction stands until it is lifted under its own id. One with a time that cannot be counts as the oldest; what lifts one
-- and has such a time, or comes before it, lifts nothing. Who is retired is not asked: a retirement may be withdrawn.
-- .. no_pii: opaque user ids, times and grounds.
CREATE OR REPLACE VIEW $pii_ledger.restrictions $on_cluster AS
SELECT
    subject,
    -- As for tombstones: 0 is no user's id.
    toInt64OrZero(subject) AS user_id,
    request,
    began_at AS restricted_at,
    first.2 AS restricted_by,
    first.3 AS detail
FROM
(
    SELECT
        subject,
        request,
        minIf(counted_at, action = 'restricted' AND NOT is_voided) AS began_at,
        arraySort(groupArrayIf((counted_at, actor, entries.detail), action = 'restricted' AND NOT is_voided))[1] AS first
    FROM $pii_ledger.marked_entries AS entries
    WHERE has_subject AND action IN ('restricted', 'unrestricted')
    GROUP BY subject, request
    HAVING countIf(action = 'restricted' AND NOT is_voided) > 0
        AND (
            countIf(action = 'unrestricted' AND NOT is_voided AND NOT is_ahead) = 0
            OR maxIf(counted_at, action = 'unrestricted' AND NOT is_voided AND NOT is_ahead) < began_at
        )
);

-- Whom no dataset shows: who is retired, and who is restricted.
-- .. no_pii: opaque user ids.
CREATE OR REPLACE VIEW $pii_ledger.withheld $on_cluster AS
SELECT
    subject,
    user_id
FROM $pii_ledger.tombstones
UNION DISTINCT
SELECT
    subject,
    user_id
FROM $pii_ledger.restrictions;
