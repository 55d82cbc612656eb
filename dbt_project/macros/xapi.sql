{# The key of a course from the address that a statement names it by: the last part of its path. #}
{% macro course_key(course_id) -%}
    splitByChar('/', {{ course_id }})[-1]
{%- endmacro %}


{# The organisation of a course: what stands between `course-v1:` and the first `+`. #}
{% macro course_org(course_key) -%}
    extract({{ course_key }}, '^course-v1:([^+]+)\\+')
{%- endmacro %}


{# The run of a course: what stands behind the second `+`. #}
{% macro course_run(course_key) -%}
    extract({{ course_key }}, '^course-v1:[^+]+\\+[^+]+\\+(.+)$')
{%- endmacro %}


{# What a learner did in a course so far; `events` is the name of classified events. Every measure is the same
   however often an event was delivered. #}
{% macro activity_measures(events) -%}
    any({{ events }}.org) as org,
    argMaxIf({{ events }}.enrollment_mode, (emission_time, event_id), kind in ('registered', 'unregistered'))
        as enrollment_mode,
    argMaxIf({{ events }}.kind, (emission_time, event_id), kind in ('registered', 'unregistered'))
        as enrollment_status,
    minOrNullIf(emission_time, kind = 'registered') as enrolled_at,
    maxOrNullIf(emission_time, kind in ('registered', 'unregistered')) as status_changed_at,
    argMaxOrNullIf(score, (emission_time, event_id), kind = 'grade' and isNotNull(score)) as grade,
    argMaxIf({{ events }}.kind, (emission_time, event_id), kind in ('passed', 'failed')) as outcome,
    maxOrNullIf(emission_time, kind = 'visit') as last_visit_at,
    maxOrNullIf(emission_time, kind in ('visit', 'video', 'problem', 'post')) as last_activity_at,
    uniqExactIf(toDate(emission_time), kind = 'visit') as visit_days,
    uniqExactIf(object_id, kind = 'problem') as problems_attempted,
    uniqExactIf(object_id, kind = 'problem' and is_success) as problems_solved,
    uniqExactIf(object_id, kind = 'video') as videos_watched,
    uniqExactIf(event_id, kind = 'post') as posts
{%- endmacro %}


{# A grade between 0 and 1 in the steps that upstream's charts have. #}
{% macro grade_bucket(grade) -%}
    multiIf(
        {{ grade }} >= 0.9, '90-100%',
        concat(
            toString(toUInt8(floor(10 * greatest({{ grade }}, 0)) * 10)), '-',
            toString(toUInt8(floor(10 * greatest({{ grade }}, 0)) * 10 + 9)), '%'
        )
    )
{%- endmacro %}
