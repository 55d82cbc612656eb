-- .. no_pii: opaque user ids, states, times, and reasons that name tables.
with

steps as (

    select
        *,
        row_number() over (
            partition by subject, request, action
            order by at
        ) as nth_of_action
    from {{ ref('stg_pii_ledger__entries') }}
    where
        subject != ''
        and action in ('requested', 'hidden', 'erased', 'failed', 'reopened', 'withdrawn')

),

-- Two doors that are told at the same moment both record the request, and one may come after the other's erasure.
entries as (

    select * from steps
    where action != 'requested' or nth_of_action = 1

),

-- Each entry lasts until the next one of the same retirement, the last one until now.
lasting as (

    select
        subject,
        request,
        action,
        at,
        detail,
        leadInFrame(at, 1, now64(6, 'UTC')) over (
            partition by subject, request
            order by at
            rows between unbounded preceding and unbounded following
        ) as ends_at
    from entries

),

dated as (

    select
        subject,
        request,
        argMax(lasting.action, lasting.at) as state,
        min(lasting.at) as requested_at,
        minOrNullIf(lasting.at, lasting.action = 'hidden') as hidden_at,
        if(state = 'erased', maxOrNullIf(lasting.at, lasting.action = 'erased'), null) as erased_at,
        -- Closed while it is erased: one that a restore reopens is not late for the time in between.
        sumIf(
            greatest(dateDiff('microsecond', lasting.at, lasting.ends_at), 0),
            lasting.action not in ('erased', 'withdrawn')
        ) / 86400000000 as days_open,
        state not in ('erased', 'withdrawn') as is_open,
        JSONExtractString(argMax(lasting.detail, lasting.at), 'reason') as reason
    from lasting
    group by subject, request

)

select * from dated
