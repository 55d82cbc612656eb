{# The databases by their own names: upstream's dashboards ask for `event_sink.user_pii`, not `reporting_event_sink.user_pii`. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
