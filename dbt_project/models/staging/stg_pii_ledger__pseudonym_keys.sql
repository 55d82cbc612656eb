-- .. no_pii: the key of this installation's pseudonyms.
with

source as (

    select * from {{ source('pii_ledger', 'pseudonym_key') }}
    {{ exact_scan() }}

),

-- No key, no row: without one a pseudonym could be computed by anybody.
latest as (

    select
        argMax(inner_pad, set_at) as inner_pad,
        argMax(outer_pad, set_at) as outer_pad
    from source
    having count() > 0

)

select * from latest
