-- Where every retirement stands, as it follows from the entries: read by aspects-pii and by its dbt project.
-- .. no_pii: opaque user ids, states, times, and details that hold counts and names of tables.

CREATE OR REPLACE VIEW $pii_ledger.retirements $on_cluster AS
SELECT
    subject,
    request,
    requested_at,
    requested_by,
    state,
    since,
    detail,
    hidden_at,
    if(state = 'erased', since, NULL) AS erased_at,
    state NOT IN ('erased', 'withdrawn') AS is_open,
    -- Each step lasts until the next one, the last one until now. Who is erased is not open, until a restore reopens it.
    arraySum(
        (step, ends_at) -> if(step.2 IN ('erased', 'withdrawn'), 0, greatest(dateDiff('microsecond', step.1, ends_at), 0)),
        steps,
        arrayPushBack(arrayPopFront(steps.1), now64(6, 'UTC'))
    ) / 1000000 AS open_seconds,
    -- A subject has several where one was withdrawn and asked for again.
    row_number() OVER (PARTITION BY subject ORDER BY requested_at DESC, request) = 1 AS is_current
FROM
(
    SELECT
        subject,
        request,
        maxIf(at, action = 'withdrawn') AS withdrawn_at,
        toString(argMaxIf(action, at, action != 'requested')) AS step,
        -- Two doors that are told at the same moment both record the request, under one id: the first counts, also where
        -- the other one comes after the erasure. One that comes after it was withdrawn asks anew, as for the tombstones.
        arraySort(groupArrayIf((at, actor, entries.detail), action = 'requested')) AS asked,
        arrayFilter(one -> one.1 > withdrawn_at, asked) AS asked_since,
        if(empty(asked_since), asked, asked_since)[1] AS first_asked,
        first_asked.1 AS requested_at,
        first_asked.2 AS requested_by,
        step = '' OR (step = 'withdrawn' AND notEmpty(asked_since)) AS is_new,
        if(is_new, 'requested', step) AS state,
        if(is_new, requested_at, maxIf(at, action != 'requested')) AS since,
        if(is_new, first_asked.3, argMaxIf(entries.detail, at, action != 'requested')) AS detail,
        minOrNullIf(at, action = 'hidden') AS hidden_at,
        arrayFilter(
            entry -> entry.2 != 'requested' OR entry.1 IN (requested_at, asked[1].1),
            arraySort(groupArray((at, toString(action))))
        ) AS steps
    FROM $pii_ledger.entries AS entries
    WHERE subject != '' AND action IN ('requested', 'hidden', 'erased', 'failed', 'reopened', 'withdrawn')
    GROUP BY subject, request
);
