{# Whose rights a dataset reads with.

   On a server where ASPECTS_CLICKHOUSE_DEFINER names a user (see docs/access-sql.md), every dataset is a view with SQL
   SECURITY DEFINER: it reads with that user's rights, and whoever looks at it needs none on what is behind. #}

{# dbt has no rights on the sources; ClickHouse (seen: 26.9) would need them to work out the columns of what reads one. #}
{% macro declared_columns() -%}
    {%- if config.get('sql_security') == 'definer' and reads_a_source(model) -%}
        {% set columns = [] %}
        {% for column in model.columns.values() %}
            {% if not column.data_type %}
                {{ exceptions.raise_compiler_error(
                    model.name ~ '.' ~ column.name ~ ' needs a data_type, since ' ~ model.name ~ ' reads a source, itself or by a base model.'
                ) }}
            {% endif %}
            {% do columns.append('`' ~ column.name ~ '` ' ~ column.data_type) %}
        {% endfor %}
        ({{ columns | join(', ') }})
    {%- endif -%}
{%- endmacro %}


{% macro reads_a_source(model) -%}
    {% set written_in = [] %}
    {% for name in model.depends_on.nodes if name in graph.nodes and graph.nodes[name].config.materialized == 'ephemeral' %}
        {% do written_in.append(name) %}
    {% endfor %}
    {{ return(model.sources or written_in) }}
{%- endmacro %}
