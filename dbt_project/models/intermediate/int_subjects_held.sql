-- .. pii: Of whom anything is held, by user id, retired or not.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

-- Not what is shown: rows of somebody whose erasure is under way are held, too.
subjects as (

    select user_id from {{ ref('base_event_sink__user_profiles') }}
    union all
    select user_id from {{ ref('base_event_sink__external_ids') }}
    union all
    select user_id from {{ ref('base_event_sink__course_access') }}

)

select distinct user_id from subjects
