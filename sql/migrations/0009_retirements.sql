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
        -- Two doors that are told at the same moment both record the request, under one id: the first counts, also where
        -- the other one comes after the erasure.
        minIf(at, action = 'requested') AS requested_at,
        -- In a tuple, for argMin passes over NULLs.
        argMinIf(tuple(actor), at, action = 'requested').1 AS requested_by,
        countIf(action != 'requested') = 0 AS is_new,
        if(is_new, 'requested', toString(argMaxIf(action, at, action != 'requested'))) AS state,
        if(is_new, requested_at, maxIf(at, action != 'requested')) AS since,
        if(is_new, argMinIf(entries.detail, at, action = 'requested'), argMaxIf(entries.detail, at, action != 'requested'))
            AS detail,
        minOrNullIf(at, action = 'hidden') AS hidden_at,
        arrayFilter(
            step -> step.2 != 'requested' OR step.1 = requested_at, arraySort(groupArray((at, toString(action))))
        ) AS steps
    FROM $pii_ledger.entries AS entries
    WHERE subject != '' AND action IN ('requested', 'hidden', 'erased', 'failed', 'reopened', 'withdrawn')
    GROUP BY subject, request
);
