-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

-- Ours, or upstream's table where Aspects made one. Only the columns that both have.
events as (

    select * from {{ ref('xapi_events_all_parsed') }}
    {{ exact_scan() }}

),

keyed as (

    select
        event_id,
        toDateTime64(emission_time, 6, 'UTC') as emission_time,
        verb_id,
        actor_id,
        object_id,
        {{ course_key('course_id') }} as course_key,
        {{ course_key_part('course_key', 'org') }} as org,
        event
    from events
    -- Once more: upstream's table has everybody.
    where {{ is_no_restricted_actor('actor_id', 'event', ref('stg_event_sink__restricted_actors')) }}

)

select * from keyed
