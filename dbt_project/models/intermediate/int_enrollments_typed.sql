-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

events as (

    select * from {{ ref('int_course_events_keyed') }}
    where verb_id in ({{ xapi_verb('registered') }}, {{ xapi_verb('unregistered') }})

),

-- A delivery that was repeated is one event.
deduplicated as (

    select * from events
    order by event_id
    limit 1 by event_id

),

typed as (

    select
        event_id,
        emission_time,
        org,
        course_key,
        actor_id,
        JSONExtractString(event, 'object', 'definition', 'extensions', {{ xapi_extension('enrollment_mode') }})
            as enrollment_mode,
        splitByChar('/', verb_id)[-1] as enrollment_status
    from deduplicated

)

select * from typed
