-- .. no_pii: opaque user ids, counts and names of tables.
with

source as (

    select * from {{ source('pii_ledger', 'entries') }}
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
    order by at
    limit 1 by subject, at, action, request

)

select * from deduplicated
