{# What xAPI statements of the LMS call things, and the measures that are taken from them. Vocabulary: that of the LMS's
   transformers (event-routing-backends, `processors/xapi/constants.py`). #}

{% macro xapi_verb(name) -%}
    {%- set verbs = {
        'earned': 'http://id.tincanapi.com/verb/earned',
        'evaluated': 'https://w3id.org/xapi/acrossx/verbs/evaluated',
        'failed': 'http://adlnet.gov/expapi/verbs/failed',
        'navigated': 'https://w3id.org/xapi/dod-isd/verbs/navigated',
        'passed': 'http://adlnet.gov/expapi/verbs/passed',
        'played': 'https://w3id.org/xapi/video/verbs/played',
        'posted': 'https://w3id.org/xapi/acrossx/verbs/posted',
        'registered': 'http://adlnet.gov/expapi/verbs/registered',
        'unregistered': 'http://id.tincanapi.com/verb/unregistered',
    } -%}
    {{ return("'" ~ xapi_address('verb', verbs, name) ~ "'") }}
{%- endmacro %}


{% macro xapi_activity(name) -%}
    {%- set activities = {'course': 'http://adlnet.gov/expapi/activities/course'} -%}
    {{ return("'" ~ xapi_address('activity', activities, name) ~ "'") }}
{%- endmacro %}


{% macro xapi_extension(name) -%}
    {%- set extensions = {
        'enrollment_mode': 'https://w3id.org/xapi/acrossx/extensions/type',
        'grade_classification': 'http://www.tincanapi.co.uk/activitytypes/grade_classification',
    } -%}
    {{ return("'" ~ xapi_address('extension', extensions, name) ~ "'") }}
{%- endmacro %}


{% macro xapi_address(kind, addresses, name) -%}
    {%- if name not in addresses -%}
        {{ exceptions.raise_compiler_error('There is no ' ~ kind ~ ' ' ~ name ~ ' in macros/xapi.sql.') }}
    {%- endif -%}
    {{ return(addresses[name]) }}
{%- endmacro %}


{% macro activity_measures(events) -%}
    argMaxIf({{ events }}.enrollment_mode, (emission_time, event_id), kind in ('registered', 'unregistered'))
        as enrollment_mode,
    argMaxIf({{ events }}.kind, (emission_time, event_id), kind in ('registered', 'unregistered'))
        as enrollment_status,
    minOrNullIf(emission_time, kind = 'registered') as enrolled_at,
    maxOrNullIf(emission_time, kind in ('registered', 'unregistered')) as status_changed_at,
    argMaxOrNullIf(score, (emission_time, event_id), isNotNull(score)) as grade,
    argMaxIf({{ events }}.outcome, (emission_time, event_id), {{ events }}.outcome != '') as stated_outcome,
    maxOrNullIf(emission_time, {{ events }}.outcome != '') as outcome_stated_at,
    argMaxOrNullIf(score, (emission_time, event_id), isNotNull(score) and {{ events }}.outcome = '') as bare_grade,
    maxOrNullIf(emission_time, isNotNull(score) and {{ events }}.outcome = '') as bare_grade_at,
    maxOrNullIf(emission_time, kind = 'visit') as last_visit_at,
    maxOrNullIf(emission_time, kind in ('visit', 'video', 'problem', 'post')) as last_activity_at,
    uniqExactIf(toDate(emission_time), kind = 'visit') as visit_days,
    uniqExactIf(object_id, kind = 'problem') as problems_attempted,
    uniqExactIf(object_id, kind = 'problem' and is_success) as problems_solved,
    uniqExactIf(object_id, kind = 'video') as videos_watched,
    uniqExactIf(event_id, kind = 'post') as posts
{%- endmacro %}


{% macro latest_outcome(measures, passing_grade) -%}
    multiIf(
        isNull({{ measures }}.bare_grade) or isNull({{ passing_grade }}), {{ measures }}.stated_outcome,
        {{ measures }}.outcome_stated_at >= {{ measures }}.bare_grade_at, {{ measures }}.stated_outcome,
        {{ measures }}.bare_grade >= {{ passing_grade }}, 'passed',
        'failed'
    )
{%- endmacro %}


{% macro grade_bucket(grade) -%}
    multiIf(
        {{ grade }} >= 0.9, '90-100%',
        concat(
            toString(toUInt8(floor(10 * greatest({{ grade }}, 0)) * 10)), '-',
            toString(toUInt8(floor(10 * greatest({{ grade }}, 0)) * 10 + 9)), '%'
        )
    )
{%- endmacro %}


{% macro is_no_restricted_actor(actor_id, has_mbox, restricted_actors) -%}
    (
        (select count() from {{ restricted_actors }}) = 0
        or not {{ has_mbox }}
        or lower(hex(SHA256(lower({{ actor_id }})))) not in (select restricted.digest from {{ restricted_actors }} as restricted)
    )
{%- endmacro %}
