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
