-- .. pii: Who did what, by user id, or by the event's own actor where PII is off.
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

events as (

    select * from {{ ref('int_events_classified') }}

),

{% if pii_enabled() %}
actors as (

    select * from {{ ref('int_actors_resolved') }}

),

-- Inner: whoever is not known, or is retired, cannot be reached.
of_learners as (

    select
        events.event_id as event_id,
        events.emission_time as emission_time,
        events.org as org,
        events.course_key as course_key,
        events.object_id as object_id,
        events.kind as kind,
        events.enrollment_mode as enrollment_mode,
        events.score as score,
        events.outcome as outcome,
        events.is_success as is_success,
        actors.user_id as user_id,
        toString(actors.user_id) as learner_id
    from events
    inner join actors on events.actor_id = actors.actor_id

)
{% else %}
of_learners as (

    select
        event_id,
        emission_time,
        org,
        course_key,
        object_id,
        kind,
        enrollment_mode,
        score,
        outcome,
        is_success,
        toInt64(0) as user_id,
        actor_id as learner_id
    from events

)
{% endif %}

select * from of_learners
