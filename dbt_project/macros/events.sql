{# What is read from an xAPI statement, and which statements count.

   Two read the same text. dbt makes views with it; sink/datasets/learner_events.py renders `learner_events` for the
   materialized view that keeps what counts as it arrives. So these macros call nothing of dbt's but `return`, and what a
   statement comes to is written once. Whoever changes what `learner_events` gives raises VERSION there. #}

{# One pass over the JSON; what is absent comes out empty. `statements` has event_id, emission_time and event, a text. #}
{% macro parsed_statements(statements) -%}
    select
        event_id,
        emission_time,
        event,
        JSONExtract(
            event,
            'Tuple(
                verb Tuple(id String),
                actor Tuple(account Tuple(name String), mbox String, mbox_sha1sum String),
                object Tuple(id String),
                context Tuple(contextActivities Tuple(
                    parent Array(Tuple(id String, definition Tuple(type String))),
                    grouping Array(Tuple(id String, definition Tuple(type String)))
                ))
            )'
        ) as statement,
        statement.context.contextActivities as activities,
        -- The first that is a course; parents come before what they are grouped in.
        arrayFirst(
            activity -> activity.definition.type = {{ xapi_activity('course') }},
            arrayConcat(activities.parent, activities.grouping)
        ) as course,
        statement.verb.id as verb_id,
        coalesce(
            nullIf(statement.actor.account.name, ''), nullIf(statement.actor.mbox, ''), statement.actor.mbox_sha1sum
        ) as actor_id,
        statement.object.id as object_id,
        if(course.id != '', course.id, object_id) as course_id
    from {{ statements }}
{%- endmacro %}


{# What statements say of a learner in a course, one row a delivery; all other statements are left out.

   events: where they stand; ending: what belongs behind the query that reads them. #}
{% macro learner_events(events, ending='') -%}
with

source as (

    select
        event_id,
        toDateTime64(emission_time, 6, 'UTC') as emission_time,
        toString(event) as event
    from {{ events }}
    {{ ending }}

),

-- Looking for a word in the text first costs a fraction of reading the JSON.
worded as (

    select * from source
    where multiSearchAny(
        event,
        ['registered', 'navigated', 'played', 'evaluated', 'earned', 'passed', 'failed', 'posted']
    )

),

parsed as (

    {{ parsed_statements('worded') }}

),

keyed as (

    select
        event_id,
        emission_time,
        verb_id,
        actor_id,
        object_id,
        event,
        {{ course_key('course_id') }} as course_key,
        {{ course_key_part('course_key', 'org') }} as org,
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
    from parsed

),

measured as (

    select
        org,
        course_key,
        emission_time,
        event_id,
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
        kind = 'problem' and JSONExtractBool(event, 'result', 'success') as is_success,
        position(event, '"mbox') > 0 as has_mbox
    from keyed
    where kind != ''

)

select
    org,
    course_key,
    emission_time,
    event_id,
    actor_id,
    object_id,
    kind,
    enrollment_mode,
    score,
    outcome,
    is_success,
    has_mbox
from measured
{%- endmacro %}
