-- .. pii: Which anonymous id in the events is which user, without retired subjects.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('event_sink', 'external_id') }}
    where external_id_type = 'xapi' and {{ is_visible_subject('user_id') }}
    {{ exact_scan() }}

),

-- By external id, so that an actor is one subject at most.
latest as (

    select * from source
    order by time_last_dumped desc, user_id desc
    limit 1 by external_user_id

),

renamed as (

    select
        toInt64(user_id) as user_id,
        toUUID(external_user_id) as external_user_id
    from latest
    where user_id != 0

)

select * from renamed
