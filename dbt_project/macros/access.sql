{# Who may see the learners of which course. #}

{# The parameter of `viewer_scopes`, as ClickHouse writes it. A macro, so that a unit test can put a name in its place. #}
{% macro viewer_parameter() -%}
    {{ return('{viewer:String}') }}
{%- endmacro %}


{# The roles that let somebody see learners, as a list for IN. #}
{% macro viewer_roles() -%}
    ('{{ var('viewer_roles') | join("', '") }}')
{%- endmacro %}


{# What `viewer` of `int_viewers_scoped` holds of somebody: the user name, or its digest where PII is off. Without a key
   nobody is anybody. #}
{% macro viewer_id(username) -%}
    {%- if pii_enabled() -%}
    {{ username }}
    {%- else -%}
    (
        select lower(hex({{ learner_digest('keys', username, "'viewer'") }}))
        from {{ ref('stg_pii_ledger__pseudonym_keys') }} as keys
    )
    {%- endif -%}
{%- endmacro %}


{# The condition for rows that `viewer` (an SQL expression without columns, such as a quoted name) may see, for a
   dataset with a column for the course and one for the organisation. A dataset that lacks one of them gives '' in its
   place, which is no course's name. The three subqueries are the same on purpose: ClickHouse then asks once.

   This is the only place where the condition is written. sink/visibility.py renders this macro for ClickHouse's row
   policies and for Superset; so it may call nothing of dbt's but `ref`. #}
{% macro visible_to(viewer, course_key='course_key', org='org') -%}
    {%- set scopes -%}
    select scope, if(scope = 'org', org, course_key) from {{ ref('viewer_scopes') }}(viewer = {{ viewer }})
    {%- endset -%}
    (('course', {{ course_key }}) in ({{ scopes }})
    or ('org', {{ org }}) in ({{ scopes }})
    or ('global', '') in ({{ scopes }}))
{%- endmacro %}
