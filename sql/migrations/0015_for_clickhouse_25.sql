-- The two views as before, in words that ClickHouse 25.8 takes as they are meant.

-- The marks are said with `if`. Asked `NOT is_voided` or `NOT is_ahead` of the view before, it looks at the indexes of the entries
-- as if there were no NOT, and finds no entry at all (ClickHouse/ClickHouse#88536, mended by #93017; 24.8 and 26.9 do not).

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

-- 25.8 takes no columns in the list of IN.
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
        countIf(action IN ('found', 'hidden', 'erased', 'reopened')) > 0 AS has_begun,
        minIf(counted_at, action IN ('found', 'hidden', 'erased', 'reopened')) AS begun_at,
        maxIf(counted_at, is_withdrawal) AS withdrawn_at,
        maxIf(counted_at, is_step) AS stepped_at,
        -- Nothing is taken back of which anything was erased, whatever the time of the withdrawal.
        NOT has_begun AND withdrawn_at > stepped_at AS is_withdrawn,
        if(is_withdrawn, 'withdrawn', toString(argMaxIf(action, counted_at, is_step))) AS step,
        -- Two doors that are told at the same moment both record the request, under one id: the first counts, also where
        -- the other one comes after the erasure. One that comes after it was withdrawn asks anew, as for the tombstones.
        arraySort(groupArrayIf((counted_at, actor, entries.detail), is_request)) AS asked,
        arrayFilter(one -> one.1 > withdrawn_at, asked) AS asked_since,
        if(empty(asked_since), asked, asked_since)[1] AS first_asked,
        first_asked.1 AS requested_at,
        first_asked.2 AS requested_by,
        step = '' OR (step = 'withdrawn' AND notEmpty(asked_since)) AS is_new,
        if(is_new, 'requested', step) AS state,
        multiIf(is_new, requested_at, is_withdrawn, withdrawn_at, stepped_at) AS since,
        multiIf(
            is_new, first_asked.3,
            is_withdrawn, argMaxIf(entries.detail, counted_at, is_withdrawal),
            argMaxIf(entries.detail, counted_at, is_step)
        ) AS detail,
        minOrNullIf(counted_at, action = 'hidden' AND is_step) AS hidden_at,
        arrayFilter(
            entry -> multiIf(
                entry.2 = 'requested', entry.1 = requested_at OR entry.1 = asked[1].1,
                entry.2 = 'withdrawn', NOT has_begun OR entry.1 < begun_at,
                true
            ),
            arraySort(groupArrayIf((counted_at, toString(action)), is_request OR is_withdrawal OR is_step))
        ) AS steps
    FROM
    (
        SELECT
            subject,
            action,
            request,
            actor,
            detail,
            counted_at,
            -- A request is never passed over for its time.
            action = 'requested' AND NOT is_voided AS is_request,
            action = 'withdrawn' AND NOT is_voided AND NOT is_ahead AS is_withdrawal,
            action IN ('hidden', 'erased', 'failed', 'reopened') AND NOT is_voided AND NOT is_ahead AS is_step
        FROM $pii_ledger.marked_entries
        WHERE has_subject AND action IN ('requested', 'found', 'hidden', 'erased', 'failed', 'reopened', 'withdrawn')
    ) AS entries
    GROUP BY subject, request
    HAVING notEmpty(asked)
);
