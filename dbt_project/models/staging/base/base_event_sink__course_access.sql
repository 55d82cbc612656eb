-- .. pii: Which user was copied with which role in which course, retired subjects too.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('event_sink', 'course_access') }}
    {{ exact_scan() }}

),

renamed as (

    select
        toInt64(user_id) as user_id,
        org,
        course_key,
        toString(role) as role,
        time_last_dumped
    from source
    where user_id != 0

)

select * from renamed
