-- .. pii: What a learner did, by user id, or by the event's own actor where PII is off.
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

events as (

    select * from {{ ref('int_events_of_learners') }}

),

summarised as (

    select
        course_key,
        learner_id,
        any(events.user_id) as user_id,
        {{ activity_measures('events') }}
    from events
    group by course_key, learner_id

)

select * from summarised
