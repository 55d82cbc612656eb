-- .. pii: How each learner is doing in a course.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

activity as (

    select * from {{ ref('int_activity_by_learner') }}

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
    activity.enrollment_status as enrollment_status,
    activity.grade as grade,
    toBool(activity.outcome = 'passed') as is_passed,
    activity.visit_days as visit_days,
    activity.problems_attempted as problems_attempted,
    activity.problems_solved as problems_solved,
    activity.videos_watched as videos_watched,
    activity.posts as posts,
    activity.last_visit_at as last_visit_at,
    activity.last_activity_at as last_activity_at
from activity
left join courses on activity.course_key = courses.course_key
inner join learners on activity.user_id = learners.user_id
