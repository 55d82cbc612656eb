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
            verb_id = 'http://adlnet.gov/expapi/verbs/registered', 'registered',
            verb_id = 'http://id.tincanapi.com/verb/unregistered', 'unregistered',
            verb_id = 'https://w3id.org/xapi/dod-isd/verbs/navigated', 'visit',
            verb_id = 'https://w3id.org/xapi/video/verbs/played', 'video',
            verb_id = 'https://w3id.org/xapi/acrossx/verbs/posted', 'post',
            verb_id = 'https://w3id.org/xapi/acrossx/verbs/evaluated' and not is_of_course, 'problem',
            verb_id = 'https://w3id.org/xapi/acrossx/verbs/evaluated', 'grade',
            verb_id = 'http://id.tincanapi.com/verb/earned' and is_of_course, 'grade',
            verb_id = 'http://adlnet.gov/expapi/verbs/passed' and is_of_course, 'passed',
            verb_id = 'http://adlnet.gov/expapi/verbs/failed' and is_of_course, 'failed',
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
            JSONExtractString(
                event, 'object', 'definition', 'extensions', 'https://w3id.org/xapi/acrossx/extensions/type'
            ),
            ''
        ) as enrollment_mode,
        if(kind = 'grade', JSONExtract(event, 'result', 'score', 'scaled', 'Nullable(Float64)'), null) as score,
        kind = 'problem' and JSONExtractBool(event, 'result', 'success') as is_success
    from classified
    where kind != ''

)

select * from measured
