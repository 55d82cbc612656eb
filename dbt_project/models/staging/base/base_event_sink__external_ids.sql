-- .. pii: Every anonymous id of each user, of each kind, of retired subjects too.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('event_sink', 'external_id') }}
    {{ exact_scan() }}

),

renamed as (

    select
        toInt64(user_id) as user_id,
        toUUID(external_user_id) as external_user_id,
        toString(external_id_type) as external_id_type,
        time_last_dumped
    from source
    where user_id != 0

)

select * from renamed
