-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

{% set kept = learner_events_table() %}
-- {{ 'As they were kept when they came in.' if kept else 'From the statements, each time.' }}
statements as (

    {% if kept %}
    select * from {{ kept }}
    {{ exact_scan() }}
    {% else %}
    select * from {{ ref('base_xapi__learner_events') }}
    {% endif %}

),

shown as (

    select
        event_id,
        emission_time,
        CAST(org, 'String') as org,
        CAST(course_key, 'String') as course_key,
        actor_id,
        object_id,
        CAST(kind, 'String') as kind,
        CAST(enrollment_mode, 'String') as enrollment_mode,
        score,
        CAST(outcome, 'String') as outcome,
        toBool(is_success) as is_success
    from statements
    where {{ is_no_restricted_actor('actor_id', 'has_mbox', ref('stg_event_sink__restricted_actors')) }}

)

select * from shown
