-- .. pii: Which user was copied with which role in which course, by a keyed digest of the user name, retired ones too.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('event_sink', 'course_access_keyed') }}
    {{ exact_scan() }}

),

renamed as (

    select
        toInt64(user_id) as user_id,
        viewer,
        org,
        course_key,
        toString(role) as role,
        time_last_dumped
    from source
    where user_id != 0

)

select * from renamed
