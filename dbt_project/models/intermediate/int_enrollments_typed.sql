-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

events as (

    select * from {{ ref('int_statements_read') }}
    where kind in ('registered', 'unregistered')

),

-- A delivery that was repeated is one event. Grouped, so that a condition on the course reaches the table.
typed as (

    select
        event_id,
        org,
        course_key,
        any(events.emission_time) as emission_time,
        any(events.actor_id) as actor_id,
        any(events.enrollment_mode) as enrollment_mode,
        any(events.kind) as enrollment_status
    from events
    group by org, course_key, event_id

)

select * from typed
