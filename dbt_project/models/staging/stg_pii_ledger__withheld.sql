-- .. no_pii: opaque user ids.
with

source as (

    select * from {{ source('pii_ledger', 'withheld') }}
    {{ exact_scan() }}

),

renamed as (

    select
        subject,
        toInt64(user_id) as user_id
    from source

)

select * from renamed
