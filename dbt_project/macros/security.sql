{# Whose rights a dataset reads with.

   On a server where ASPECTS_CLICKHOUSE_DEFINER names a user (see docs/access-sql.md), every dataset is a view with SQL
   SECURITY DEFINER: it reads with that user's rights, and whoever looks at it needs none on what is behind. #}

{# Names and types of the columns of a model that reads a source, for CREATE VIEW. Without them ClickHouse works them
   out with the rights of whoever creates the view, and dbt has none on the sources (seen with ClickHouse 26.9). #}
{% macro declared_columns() -%}
    {%- if config.get('sql_security') == 'definer' and model.sources -%}
        {% set columns = [] %}
        {% for column in model.columns.values() %}
            {% if not column.data_type %}
                {{ exceptions.raise_compiler_error(
                    model.name ~ '.' ~ column.name ~ ' needs a data_type, since ' ~ model.name ~ ' reads a source.'
                ) }}
            {% endif %}
            {% do columns.append('`' ~ column.name ~ '` ' ~ column.data_type) %}
        {% endfor %}
        ({{ columns | join(', ') }})
    {%- endif -%}
{%- endmacro %}
