-- .. pii: Who is or was enrolled in a course and how to reach them.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

activity as (

    select * from {{ ref('int_activity_by_learner') }}
    where enrollment_status != ''

),

courses as (

    select * from {{ ref('stg_event_sink__course_overviews') }}

),

learners as (

    select * from {{ ref('int_learners_shown') }}

)

select
    activity.org as org,
    activity.course_key as course_key,
    courses.course_name as course_name,
    {{ course_key_part('activity.course_key', 'run') }} as course_run,
    {{ learner_columns('activity', 'learners') }},
    activity.enrollment_mode as enrollment_mode,
    activity.enrollment_status as enrollment_status,
    activity.enrolled_at as enrolled_at,
    assumeNotNull(activity.status_changed_at) as status_changed_at
from activity
left join courses on activity.course_key = courses.course_key
inner join learners on activity.user_id = learners.user_id
