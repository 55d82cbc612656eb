{# Ends a query that reads a table. With the query condition cache, ClickHouse remembers which granules a filter
   leaves nothing of; where a join narrowed the same scan at run time (enable_join_runtime_filters), it blames the
   filter, and the next query misses rows (seen with chDB 4.4.0, ClickHouse 26.9). ClickHouse's pull request 119823 puts
   that right: this can go once no older server is supported. Servers older than the cache do not know the setting. #}
{% macro exact_scan() -%}
    {%- if execute and run_query(
        "select count() from system.settings where name = 'use_query_condition_cache'"
    ).rows[0][0] | int -%}
        settings use_query_condition_cache = 0
    {%- endif -%}
{%- endmacro %}
