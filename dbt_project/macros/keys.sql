{# The keys of courses, by the rules of `opaque-keys` 4 (CourseLocator, LibraryLocator, LibraryLocatorV2) and of
   `ccx-keys` 2 (CCXLocator). The forms are:

       course-v1:Org+Course+Run        with +branch@… and +version@… where split modulestore adds them
       ccx-v1:Org+Course+Run+ccx@1     a custom course, of the organisation and run of the course that it was made from
       library-v1:Org+Library          a library of the old kind; `library` stands for its run
       lib:Org:Library                 a library
       Org/Course/Run                  a course of old

   A key that names only a version (`course-v1:version@…`) has no organisation and no run. Each expression reads
   a LowCardinality, so that a pattern is tried once a course and not once an event. #}

{% macro course_key(course_id) -%}
    toString(coalesce(
        nullIf(extract(
            toLowCardinality({{ course_id }}),
            '/course/([^/?#:]+:[^/?#]+|[^/?#:]+/[^/?#:]+/[^/?#:]+)'
        ), ''),
        extract(toLowCardinality({{ course_id }}), '([^/]*)$')
    ))
{%- endmacro %}


{% macro course_key_part(course_key, part) -%}
    {%- set parts = {
        'org': [
            '^(?:course|ccx|library)-v1:([^+@/\\\\s]+)\\\\+[^+@/\\\\s]+(?:\\\\+|$)',
            '^lib:([^:+@/\\\\s]+):[^:+@/\\\\s]+$',
            '^([^:+@/\\\\s]+)/[^:+@/\\\\s]+/[^:+@/\\\\s]+$',
        ],
        'run': [
            '^(?:course|ccx)-v1:[^+@/\\\\s]+\\\\+[^+@/\\\\s]+\\\\+([^+@/\\\\s]+)(?:\\\\+|$)',
            '^(library)-v1:[^+@/\\\\s]+\\\\+[^+@/\\\\s]+(?:\\\\+|$)',
            '^[^:+@/\\\\s]+/[^:+@/\\\\s]+/([^:+@/\\\\s]+)$',
        ],
    } -%}
    {#- A key has one form: of the others each pattern finds nothing. -#}
    toString(concat(
        {%- for pattern in parts[part] %}
        extract(toLowCardinality({{ course_key }}), '{{ pattern }}'){{ '' if loop.last else ',' }}
        {%- endfor %}
    ))
{%- endmacro %}
