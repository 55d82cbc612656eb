-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
{{ config(schema=env_var('ASPECTS_XAPI_DATABASE', 'xapi')) }}

with

events as (

    select * from {{ ref('stg_xapi__events') }}

)

select
    event_id,
    verb_id,
    actor_id,
    object_id,
    course_id,
    {{ course_key('course_id') }} as course_key,
    {{ course_key_part('course_key', 'org') }} as org,
    emission_time,
    event
from events
