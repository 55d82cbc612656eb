-- .. pii: Which user has which role in which course, without retired subjects.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('event_sink', 'course_access') }}
    where {{ is_visible_subject('user_id') }}
    {{ exact_scan() }}

),

latest as (

    select * from source
    order by time_last_dumped desc
    limit 1 by user_id, org, course_key, role

),

renamed as (

    select
        toInt64(user_id) as user_id,
        org,
        course_key,
        toString(role) as role
    from latest
    where user_id != 0

)

select * from renamed
