{# True where storing PII is on. What is read here decides what the next build shows. #}
{% macro pii_enabled() -%}
    {{ return(env_var('ASPECTS_ENABLE_PII', 'false') | lower | trim in ('true', '1', 'yes', 'on', 't', 'y')) }}
{%- endmacro %}


{# Condition of every staging model with PII: the subject is not retired, and PII is on.
   It stands at the door so that no model behind it can forget it, and it is asked at every query, so that a
   retired subject vanishes when the tombstone is written, before any row is erased. #}
{% macro is_visible_subject(user_id) -%}
    {{ is_not_retired(user_id) }}
    {%- if not pii_enabled() %} and false{% endif %}
{%- endmacro %}


{% macro is_not_retired(user_id) -%}
    toInt64({{ user_id }}) not in (select user_id from {{ source('pii_ledger', 'tombstones') }})
{%- endmacro %}


{# ── Who a row is about ──────────────────────────────────────────────────────────────────────────────────────────
   With PII on, a learner is a subject: `learner_id` is the user id, and `learners` holds how to reach them.
   With PII off, a learner is an actor, and all that is shown is a pseudonym: HMAC-SHA256 of actor and course under
   the installation's key, so that nobody can follow a learner from course to course or back to the events.
   The key is a row of a table that only the sink reads: no SQL text and no artifact of dbt holds it. #}

{# What the CTE `learners` of a model is read from, for `learner_columns` and `learner_join`. #}
{% macro learners() -%}
    {{ return(ref('int_contacts_listed') if pii_enabled() else ref('stg_pii_ledger__pseudonym_keys')) }}
{%- endmacro %}


{% macro learner_join(rows) -%}
    {%- if pii_enabled() -%}
        inner join learners on {{ rows }}.user_id = learners.user_id
    {%- else -%}
        cross join learners
    {%- endif -%}
{%- endmacro %}


{# learner_key, user_id, external_user_id, username, name, email of the learner of `rows`. #}
{% macro learner_columns(rows) -%}
    {%- if pii_enabled() -%}
    toString(learners.user_id) as learner_key,
    learners.user_id as user_id,
    learners.external_user_id as external_user_id,
    learners.username as username,
    learners.name as name,
    learners.email as email
    {%- else -%}
    left(hex({{ learner_digest('learners', rows ~ '.learner_id', rows ~ '.course_key') }}), 16) as learner_key,
    toInt64(0) as user_id,
    cast(null as Nullable(UUID)) as external_user_id,
    {{ pseudonym('learners', rows ~ '.learner_id', rows ~ '.course_key') }} as username,
    {{ pseudonym('learners', rows ~ '.learner_id', rows ~ '.course_key') }} as name,
    '' as email
    {%- endif -%}
{%- endmacro %}


{# HMAC-SHA256 (RFC 2104), written out because servers before 26 have no function for it. #}
{% macro learner_digest(keys, learner_id, course_key) -%}
    SHA256(concat(
        unhex({{ keys }}.outer_pad),
        SHA256(concat(unhex({{ keys }}.inner_pad), {{ learner_id }}, char(0), {{ course_key }}))
    ))
{%- endmacro %}


{# Such as `Learner K7QF-29`: 30 bits in 32 letters and digits of which no two look alike. #}
{% macro pseudonym(keys, learner_id, course_key) -%}
    'Learner ' || arrayStringConcat(arrayMap(
        (position, digest) -> substring(
            'ABCDEFGHJKLMNPQRSTUVWXYZ23456789', 1 + bitAnd(reinterpretAsUInt8(substring(digest, position, 1)), 31), 1
        ) || if(position = 4, '-', ''),
        [1, 2, 3, 4, 5, 6],
        arrayWithConstant(6, {{ learner_digest(keys, learner_id, course_key) }})
    ))
{%- endmacro %}


{# The same for models with upstream's columns, which go by the event's actor and keep the rows of whoever is not known. #}

{# What the CTE `people` of a model is read from, for `people_columns` and `people_join`. #}
{% macro people() -%}
    {{ return(ref('int_people_by_actor') if pii_enabled() else ref('stg_pii_ledger__pseudonym_keys')) }}
{%- endmacro %}


{% macro people_join(rows) -%}
    {%- if pii_enabled() -%}
        left join people on {{ rows }}.actor_id = people.actor_id
    {%- else -%}
        cross join people
    {%- endif -%}
{%- endmacro %}


{% macro people_columns(rows) -%}
    {%- if pii_enabled() -%}
    people.username as username,
    people.name as name,
    people.email as email
    {%- else -%}
    {{ pseudonym('people', rows ~ '.actor_id', rows ~ '.course_key') }} as username,
    {{ pseudonym('people', rows ~ '.actor_id', rows ~ '.course_key') }} as name,
    '' as email
    {%- endif -%}
{%- endmacro %}
