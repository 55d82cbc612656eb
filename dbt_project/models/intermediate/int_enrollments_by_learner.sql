-- .. pii: Who is enrolled in which course, by user id, or by anonymous id where PII is off.
-- .. pii_types: id
-- .. pii_retirement: consumer_api
with

enrollments as (

    select * from {{ ref('int_enrollments_typed') }}

),

{% if pii_enabled() %}
actors as (

    select * from {{ ref('int_actors_resolved') }}

),

-- Inner: whoever is not known, or is retired, cannot be reached.
of_learners as (

    select
        enrollments.*,
        actors.user_id as user_id,
        toString(actors.user_id) as learner_id
    from enrollments
    inner join actors on enrollments.actor_id = actors.actor_id

),
{% else %}
of_learners as (

    select
        *,
        toInt64(0) as user_id,
        actor_id as learner_id
    from enrollments
    where actor_id != ''

),
{% endif %}

by_learner as (

    select
        course_key,
        learner_id,
        any(of_learners.user_id) as user_id,
        any(of_learners.org) as org,
        argMax(of_learners.enrollment_mode, (emission_time, event_id)) as enrollment_mode,
        argMax(of_learners.enrollment_status, (emission_time, event_id)) as enrollment_status,
        min(emission_time) as enrolled_at,
        max(emission_time) as status_changed_at
    from of_learners
    group by course_key, learner_id

)

select * from by_learner
