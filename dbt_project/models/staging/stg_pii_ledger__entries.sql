-- .. no_pii: opaque user ids, counts and names of tables.
with

source as (

    select * from {{ source('pii_ledger', 'marked_entries') }}
    {{ exact_scan() }}

),

-- A line that was written again after a broken connection says the same.
deduplicated as (

    select
        subject,
        at,
        toString(action) as action,
        request,
        detail
    from source
    -- What was taken out, or has a time that cannot be, says nothing.
    where not is_voided and not is_ahead
    order by at
    limit 1 by subject, at, action, request

)

select * from deduplicated
