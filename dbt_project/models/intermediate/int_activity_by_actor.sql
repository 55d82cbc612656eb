-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

events as (

    select * from {{ ref('int_events_classified') }}

),

summarised as (

    select
        course_key,
        actor_id,
        {{ activity_measures('events') }}
    from events
    group by course_key, actor_id

)

select * from summarised
