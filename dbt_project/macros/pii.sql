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
