-- .. no_pii: opaque user ids and times.
with

source as (

    select * from {{ source('pii_ledger', 'restrictions') }}
    {{ exact_scan() }}

),

renamed as (

    select
        subject,
        toInt64(user_id) as user_id,
        request,
        restricted_at
    from source

)

select * from renamed
