-- .. pii: Who is enrolled, has not passed and has not been seen for a while, and how to reach them.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

-- Whoever never came counts from the day of enrolling. Whole days, as upstream counts: dateDiff would count midnights.
absent as (

    select
        *,
        toInt64(age('day', coalesce(last_visit_at, enrolled_at, status_changed_at), now64(6, 'UTC'))) as days_absent
    from {{ ref('int_activity_by_learner') }}
    where enrollment_status = 'registered' and outcome != 'passed'

),

at_risk as (

    select * from absent
    where days_absent >= {{ var('at_risk_days') | int }}

),

courses as (

    select * from {{ ref('stg_event_sink__course_overviews') }}

),

learners as (

    select * from {{ ref('int_learners_shown') }}

)

select
    at_risk.org as org,
    at_risk.course_key as course_key,
    courses.course_name as course_name,
    {{ course_key_part('at_risk.course_key', 'run') }} as course_run,
    {{ learner_columns('at_risk', 'learners') }},
    at_risk.enrollment_mode as enrollment_mode,
    at_risk.enrolled_at as enrolled_at,
    at_risk.grade as grade,
    at_risk.last_visit_at as last_visit_at,
    at_risk.last_activity_at as last_activity_at,
    assumeNotNull(at_risk.days_absent) as days_absent
from at_risk
left join courses on at_risk.course_key = courses.course_key
inner join learners on at_risk.user_id = learners.user_id
