-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

-- Looking for a word in the text first costs a fraction of reading the JSON.
events as (

    select * from {{ ref('int_course_events_keyed') }}
    where multiSearchAny(
        event,
        ['registered', 'navigated', 'played', 'evaluated', 'earned', 'passed', 'failed', 'posted']
    )

),

classified as (

    select
        event_id,
        emission_time,
        org,
        course_key,
        actor_id,
        object_id,
        event,
        -- Grades and outcomes are of the course; of its parts, problems count.
        object_id like '%/course/%' as is_of_course,
        multiIf(
            verb_id = {{ xapi_verb('registered') }}, 'registered',
            verb_id = {{ xapi_verb('unregistered') }}, 'unregistered',
            verb_id = {{ xapi_verb('navigated') }}, 'visit',
            verb_id = {{ xapi_verb('played') }}, 'video',
            verb_id = {{ xapi_verb('posted') }}, 'post',
            verb_id = {{ xapi_verb('evaluated') }} and not is_of_course, 'problem',
            verb_id = {{ xapi_verb('evaluated') }}, 'grade',
            verb_id = {{ xapi_verb('earned') }} and is_of_course, 'grade',
            verb_id = {{ xapi_verb('passed') }} and is_of_course, 'passed',
            verb_id = {{ xapi_verb('failed') }} and is_of_course, 'failed',
            ''
        ) as kind
    from events
    where actor_id != '' and course_key != ''

),

measured as (

    select
        event_id,
        emission_time,
        org,
        course_key,
        actor_id,
        object_id,
        kind,
        if(
            kind in ('registered', 'unregistered'),
            JSONExtractString(event, 'object', 'definition', 'extensions', {{ xapi_extension('enrollment_mode') }}),
            ''
        ) as enrollment_mode,
        -- Statements that somebody has passed often carry 0 for want of a grade.
        if(
            kind in ('grade', 'passed', 'failed'),
            nullIf(
                JSONExtract(event, 'result', 'score', 'scaled', 'Nullable(Float64)'), if(kind = 'passed', 0, null)
            ),
            null
        ) as score,
        if(
            kind in ('grade', 'passed', 'failed'),
            JSONExtractString(event, 'result', 'extensions', {{ xapi_extension('grade_classification') }}),
            ''
        ) as classification,
        -- The LMS writes Fail for whoever has not passed; for others Pass, or the letter of a policy with several.
        multiIf(
            classification = 'Fail', 'failed',
            classification != '', 'passed',
            kind in ('passed', 'failed'), kind,
            ''
        ) as outcome,
        kind = 'problem' and JSONExtractBool(event, 'result', 'success') as is_success
    from classified
    where kind != ''

)

select * from measured
