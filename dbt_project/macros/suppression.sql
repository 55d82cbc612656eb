{% macro smallest_cell() -%}
    {%- set size = var('smallest_cell') | int -%}
    {%- if execute and size < 3 -%}
        {{ exceptions.raise_compiler_error('smallest_cell is ' ~ size ~ '; it cannot be less than 3.') }}
    {%- endif -%}
    {{ return(size) }}
{%- endmacro %}
