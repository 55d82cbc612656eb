-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

events as (

    select * from {{ ref('base_xapi__events') }}

),

parsed as (

    {{ parsed_statements('events') }}

),

renamed as (

    select
        event_id,
        verb_id,
        actor_id,
        object_id,
        course_id,
        emission_time,
        event
    from parsed

),

shown as (

    select * from renamed
    where
        {{ is_no_restricted_actor(
            'actor_id', "(position(event, '\"mbox') > 0)", ref('stg_event_sink__restricted_actors')
        ) }}

)

select * from shown
