-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

events as (

    select * from {{ ref('int_events_classified') }}

),

courses as (

    select
        stg.course_key as graded_course,
        stg.passing_grade as passing_grade
    from {{ ref('stg_event_sink__course_overviews') }} as stg
    where isNotNull(stg.passing_grade)

),

summarised as (

    select
        org,
        course_key,
        actor_id,
        {{ activity_measures('events') }}
    from events
    group by org, course_key, actor_id

),

judged as (

    select
        summarised.*,
        {{ latest_outcome('summarised', 'courses.passing_grade') }} as outcome
    from summarised
    left join courses on summarised.course_key = courses.graded_course

)

select * from judged
