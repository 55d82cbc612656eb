{# The databases by their own names: upstream's dashboards ask for `event_sink.user_pii`, not `reporting_event_sink.user_pii`. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}


{# Where `aspects-pii build` keeps the statements that count, or nothing where it does not: see docs/decisions/0027-kept-statements.md. #}
{% macro learner_events_table() -%}
    {%- set name = env_var('ASPECTS_LEARNER_EVENTS', '') -%}
    {{ return(api.Relation.create(schema=target.schema, identifier=name, type='table') if name else none) }}
{%- endmacro %}
