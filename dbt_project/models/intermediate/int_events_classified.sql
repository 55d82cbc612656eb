-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

statements as (

    select * from {{ ref('int_statements_read') }}

),

of_somebody_in_a_course as (

    select
        event_id,
        emission_time,
        org,
        course_key,
        actor_id,
        object_id,
        kind,
        enrollment_mode,
        score,
        outcome,
        is_success
    from statements
    where actor_id != '' and course_key != ''

)

select * from of_somebody_in_a_course
