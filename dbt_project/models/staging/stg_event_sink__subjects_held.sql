-- .. pii: Of whom anything is held, by user id, retired or not.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

profiles as (

    select toInt64(user_id) as user_id from {{ source('event_sink', 'user_profile') }}
    {{ exact_scan() }}

),

external_ids as (

    select toInt64(user_id) as user_id from {{ source('event_sink', 'external_id') }}
    {{ exact_scan() }}

),

roles as (

    select toInt64(user_id) as user_id from {{ source('event_sink', 'course_access') }}
    {{ exact_scan() }}

),

subjects as (

    select user_id from profiles
    union all
    select user_id from external_ids
    union all
    select user_id from roles

)

-- Not what is shown: rows of somebody whose erasure is under way are held, too.
select distinct user_id
from subjects
where user_id != 0
