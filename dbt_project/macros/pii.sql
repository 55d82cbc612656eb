{# Whether people are shown, and how.

   With PII on, a learner is a subject, known by the user id. With PII off, a learner is an actor, and all that is shown
   is a pseudonym: HMAC-SHA256 of actor and course under the installation's key, so that nobody can follow a learner from
   course to course or back to the events. The key is a row of a table that only the sink reads: no SQL text and no
   artifact of dbt holds it. `int_learners_shown` is where the two meet; the expressions here are the same for both. #}

{% macro pii_enabled() -%}
    {{ return(env_var('ASPECTS_ENABLE_PII', 'false') | lower | trim in ('true', '1', 'yes', 'on', 't', 'y')) }}
{%- endmacro %}


{% macro learner_columns(rows, learners) -%}
    if(
        {{ learners }}.outer_pad = '',
        toString({{ learners }}.user_id),
        left(hex({{ learner_digest(learners, rows ~ '.learner_id', rows ~ '.course_key') }}), 16)
    ) as learner_key,
    {{ learners }}.user_id as user_id,
    {{ learners }}.external_user_id as external_user_id,
    {{ name_columns(learners, rows ~ '.learner_id', rows ~ '.course_key') }}
{%- endmacro %}


{% macro name_columns(learners, learner_id, course_key) -%}
    {%- for column in ('username', 'name') -%}
    if(
        {{ learners }}.outer_pad = '',
        {{ learners }}.{{ column }},
        {{ pseudonym(learners, learner_id, course_key) }}
    ) as {{ column }},
    {% endfor -%}
    {{ learners }}.email as email
{%- endmacro %}


{% macro learner_digest(keys, learner_id, course_key) -%}
    SHA256(concat(
        unhex({{ keys }}.outer_pad),
        SHA256(concat(unhex({{ keys }}.inner_pad), {{ learner_id }}, char(0), {{ course_key }}))
    ))
{%- endmacro %}


{% macro pseudonym(keys, learner_id, course_key) -%}
    'Learner ' || arrayStringConcat(arrayMap(
        (position, digest) -> substring(
            'ABCDEFGHJKLMNPQRSTUVWXYZ23456789', 1 + bitAnd(reinterpretAsUInt8(substring(digest, position, 1)), 31), 1
        ) || if(position = 4, '-', ''),
        [1, 2, 3, 4, 5, 6],
        arrayWithConstant(6, {{ learner_digest(keys, learner_id, course_key) }})
    ))
{%- endmacro %}
