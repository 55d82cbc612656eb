-- .. no_pii: opaque user ids, states, times, and reasons that name tables.
with

source as (

    select * from {{ source('pii_ledger', 'retirements') }}
    {{ exact_scan() }}

),

renamed as (

    select
        subject,
        request,
        state,
        requested_at,
        hidden_at,
        erased_at,
        is_open,
        open_seconds / 86400 as days_open,
        JSONExtractString(detail, 'reason') as reason
    from source

)

select * from renamed
