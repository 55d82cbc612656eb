-- .. pii: Who enrolled and left, with upstream's name and columns. A retired learner's rows stay, without the person.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

enrollments as (

    select * from {{ ref('int_enrollments_typed') }}

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
    enrollments.emission_time as emission_time,
    enrollments.org as org,
    enrollments.course_key as course_key,
    courses.course_name as course_name,
    {{ course_key_part('enrollments.course_key', 'run') }} as course_run,
    enrollments.actor_id as actor_id,
    enrollments.enrollment_mode as enrollment_mode,
    enrollments.enrollment_status as enrollment_status,
    {{ name_columns('learners', 'enrollments.actor_id', 'enrollments.course_key') }}
from enrollments
left join courses on enrollments.course_key = courses.course_key
left join actors on enrollments.actor_id = actors.actor_id
left join learners on actors.user_id = learners.user_id
