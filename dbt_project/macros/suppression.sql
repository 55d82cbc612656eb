{# The least number of learners that is shown. With two, a pair of hidden cells that sum to two would be one and one. #}
{% macro smallest_cell() -%}
    {%- set size = var('smallest_cell') | int -%}
    {%- if size < 3 -%}
        {{ exceptions.raise_compiler_error('smallest_cell is ' ~ size ~ '; it cannot be less than 3.') }}
    {%- endif -%}
    {{ return(size) }}
{%- endmacro %}
