{# Who may see the learners of which course. #}

{% macro viewer_parameter() -%}
    {{ return('{viewer:String}') }}
{%- endmacro %}


{% macro viewer_roles() -%}
    ('{{ var('viewer_roles') | join("', '") }}')
{%- endmacro %}


{% macro viewer_id(username, pseudonym_keys) -%}
    {%- if pii_enabled() -%}
    {{ username }}
    {%- else -%}
    (
        select lower(hex({{ learner_digest('keys', username, "'viewer'") }}))
        from {{ pseudonym_keys }} as keys
    )
    {%- endif -%}
{%- endmacro %}


{# The two subqueries are the same on purpose: ClickHouse then asks once. Whether somebody sees everything is asked as a number,
   which ClickHouse knows before it reads: what is left are courses and organisations, by which the kept statements are
   sorted. With a third `in`, of which no column is part, it would read those of all courses.

   This is the only place where the condition is written. sink/visibility.py renders this macro for ClickHouse's row
   policies and for Superset; so it may call nothing of dbt's. #}
{% macro visible_to(viewer, viewer_scopes, course_key='course_key', org='org') -%}
    {%- set scopes -%}
    select scope, if(scope = 'org', org, course_key) from {{ viewer_scopes }}(viewer = {{ viewer }})
    {%- endset -%}
    (('course', {{ course_key }}) in ({{ scopes }})
    or ('org', {{ org }}) in ({{ scopes }})
    or (select countIf(scope = 'global') from {{ viewer_scopes }}(viewer = {{ viewer }})) > 0)
{%- endmacro %}
