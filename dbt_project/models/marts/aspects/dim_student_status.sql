-- .. pii: How learners are doing, with upstream's name and columns. A retired learner's rows stay, without the person.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

activity as (

    select * from {{ ref('int_activity_by_actor') }}
    where enrollment_status != ''

),

courses as (

    select * from {{ ref('stg_event_sink__course_overviews') }}

),

actors as (

    select * from {{ ref('int_actors_resolved') }}

),

learners as (

    select * from {{ ref('int_learners_shown') }}

)

select
    activity.org as org,
    activity.course_key as course_key,
    activity.actor_id as actor_id,
    courses.course_name as course_name,
    {{ course_key_part('activity.course_key', 'run') }} as course_run,
    -- As upstream has it: whoever has not passed has failed so far.
    if(activity.outcome = '', 'failed', activity.outcome) as approving_state,
    activity.enrollment_mode as enrollment_mode,
    activity.enrollment_status as enrollment_status,
    coalesce(activity.grade, 0) as course_grade,
    {{ grade_bucket('coalesce(activity.grade, 0)') }} as grade_bucket,
    {{ name_columns('learners', 'activity.actor_id', 'activity.course_key') }},
    assumeNotNull(activity.status_changed_at) as enrolled_at
from activity
left join courses on activity.course_key = courses.course_key
left join actors on activity.actor_id = actors.actor_id
left join learners on actors.user_id = learners.user_id
