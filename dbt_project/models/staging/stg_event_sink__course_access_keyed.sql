-- .. pii: Which user has which role in which course, by a keyed digest of the user name, without retired subjects.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

-- Empty while PII is on: then names count, and what was stored of digests may be old.
source as (

    select * from {{ source('event_sink', 'course_access_keyed') }}
    where {{ is_not_retired('user_id') }} and {{ 'false' if pii_enabled() else 'true' }}
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
        viewer,
        org,
        course_key,
        toString(role) as role
    from latest
    where user_id != 0

)

select * from renamed
