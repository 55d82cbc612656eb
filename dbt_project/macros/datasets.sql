{# Which relations are ours, and how not to touch those that are not.

   A ClickHouse that Aspects filled has relations with the names of our compatible models, some of them tables with
   data. Each relation that this project creates carries a mark in its comment, written by the statement that creates
   it. A relation without the mark is somebody else's: it is left as it is, and models that refer to it read it. #}

{% macro dataset_mark() -%}
    {{ return('[aspects-pii] ') }}
{%- endmacro %}


{# What a relation of ours says of itself: the mark, and whether it shows people. `aspects-pii status` compares that with the setting. #}
{% macro dataset_comment(description) -%}
    {{ return(dataset_mark() ~ ('PII on. ' if pii_enabled() else 'PII off. ') ~ description | trim) }}
{%- endmacro %}


{# What is there under the name of `relation`: none, or {engine, is_ours}. #}
{% macro find_dataset(relation) -%}
    {% set found = run_query(
        "select engine, startsWith(comment, '" ~ dataset_mark() ~ "') from system.tables where database = '"
        ~ relation.schema ~ "' and name = '" ~ relation.identifier ~ "'"
    ) %}
    {% if not found.rows %}{{ return(none) }}{% endif %}
    {{ return({'engine': found.rows[0][0], 'is_ours': found.rows[0][1] | int == 1}) }}
{%- endmacro %}


{# `relation` in a test: without rows where it is somebody else's, whose promises are not ours to test. #}
{% macro if_ours(relation) -%}
    {% if execute and relation.schema %}
        {% set found = find_dataset(relation) %}
        {% if found and not found.is_ours %}{{ return('(select * from ' ~ relation ~ ' where false)') }}{% endif %}
    {% endif %}
    {{ return(relation) }}
{%- endmacro %}


{# What dbt's generic tests read. #}
{% macro get_where_subquery(relation) -%}
    {% set tested = if_ours(relation) if model.attached_node and model.attached_node.split('.')[-1] == relation.identifier else relation %}
    {% set where = config.get('where', '') %}
    {% if where %}{{ return('(select * from ' ~ tested ~ ' where ' ~ where ~ ') dbt_subquery') }}{% endif %}
    {{ return(tested ~ ('' if tested is not string else ' dbt_subquery')) }}
{%- endmacro %}


{# As in dbt-clickhouse 1.10.3, plus the mark and the declared columns: in one statement, or a build killed between two would leave a relation
   that the next one takes for somebody else's. #}
{% macro clickhouse__create_view_as(relation, sql) -%}
    create or replace view {{ relation.include(database=False) }} {{ on_cluster_clause(relation) }}
    {{ declared_columns() }}
    {{ get_sql_security_clause(relation) }}
    {% if config.get('contract').enforced %}{{ get_assert_columns_equivalent(without_parameters(sql)) }}{% endif %}
    as (
        {{ sql }}
    )
    comment {{ clickhouse_escape_comment(dataset_comment(model.description)) }}
{%- endmacro %}


{% materialization view, adapter='clickhouse' -%}
    {%- set target_relation = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks) }}
    {% do make_dataset(target_relation, sql) %}
    {{ run_hooks(post_hooks) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}


{# A view that is called like a function, as in `viewer_scopes(viewer = 'somebody')`; dbt-clickhouse 1.10.3 has no
   materialization for it (see its issue 131). The
   parameters stand in the model as ClickHouse writes them, `{name:String}`, and are all texts. #}
{% materialization parameterised_view, adapter='clickhouse' -%}
    {%- set target_relation = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks) }}
    {% do make_dataset(target_relation, sql) %}
    {{ run_hooks(post_hooks) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}


{# A dictionary that keeps nothing: ClickHouse asks its query anew for each read, so that a retirement shows in it as in a
   view. For a name under which upstream has a dictionary: its dbt replaces one dictionary by another, and fails with
   code 80 where it finds a view. Its columns are those of the contract; `primary_key` lists the names of the key's. #}
{% materialization direct_dictionary, adapter='clickhouse' -%}
    {%- set target_relation = this.incorporate(type='dictionary') -%}

    {{ run_hooks(pre_hooks) }}
    {% do make_dataset(target_relation, sql, kind='Dictionary') %}
    {{ run_hooks(post_hooks) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}


{% macro create_direct_dictionary_as(relation, sql) -%}
    {%- do get_assert_columns_equivalent(sql) -%}
    create or replace dictionary {{ relation.include(database=False) }} {{ on_cluster_clause(relation) }}
    (
        {%- for column in model.columns.values() %}
        `{{ column.name }}` {{ column.data_type }}{{ ',' if not loop.last }}
        {%- endfor %}
    )
    primary key {{ config.require('primary_key') | join(', ') }}
    source(clickhouse({{ dictionary_account() }} query {{ text_literal(without_comments(sql)) }}))
    layout(complex_key_direct())
    comment {{ clickhouse_escape_comment(dataset_comment(model.description)) }}
{%- endmacro %}


{# Whom the query of a dictionary is asked as: the account that builds. ClickHouse keeps its password and shows it to nobody.
   The engine in process has nobody to log in as, and is told from a server by the HTTP connections that it knows: a
   server knows at least that of this query. #}
{% macro dictionary_account() -%}
    {%- if run_query("select value from system.metrics where metric = 'HTTPConnection'").rows[0][0] | int > 0 -%}
        {%- set account = adapter.get_credentials({}) -%}
        user {{ text_literal(account.user) }} password {{ text_literal(account.password) }}
    {%- endif -%}
{%- endmacro %}


{% macro text_literal(text) -%}
    {{ return("'" ~ text | string | replace('\\', '\\\\') | replace("'", "\\'") ~ "'") }}
{%- endmacro %}


{# ClickHouse keeps the query of a dictionary as it was written. #}
{% macro without_comments(sql) -%}
    {{ return(modules.re.sub('(?m)^\\s*--.*\n', '', sql) | trim) }}
{%- endmacro %}


{# The same query as one that can be asked: with an empty text in the place of each parameter. #}
{% macro without_parameters(sql) -%}
    {{ return(modules.re.sub('\\{\\w+:String\\}', "''", sql) if config.get('materialized') == 'parameterised_view' else sql) }}
{%- endmacro %}


{# Creates the view, or what else `kind` is, unless somebody else's relation is there. #}
{% macro make_dataset(target_relation, sql, kind='View') -%}
    {% set found = find_dataset(target_relation) %}
    {% if found and not found.is_ours and not may_replace(found, model) %}
        {% if not model.config.meta.get('upstream_name') %}
            {{ exceptions.raise_compiler_error(
                this ~ ' exists and was not made by aspects-pii. Rename or drop it, then build again.'
            ) }}
        {% endif %}
        {{ log(this ~ ' is not ours and stays as it is.', info=true) }}
        {% call statement('main') -%} select 1 {%- endcall %}
    {% else %}
        {% if found and found.engine != kind %}
            {% call statement('drop') -%}
                drop {{ 'dictionary' if found.engine == 'Dictionary' else 'view' }} {{ target_relation }} {{ on_cluster_clause(target_relation) }}
            {%- endcall %}
        {% endif %}
        {% if kind == 'Dictionary' %}
            {# Not as `main`, which dbt writes to a file: the statement has the password of the account. #}
            {% call statement('create') -%} {{ create_direct_dictionary_as(target_relation, sql) }} {%- endcall %}
            {% call statement('main') -%} select 1 {%- endcall %}
        {% else %}
            {% call statement('main') -%} {{ get_create_view_as_sql(target_relation, sql) }} {%- endcall %}
        {% endif %}
    {% endif %}
{%- endmacro %}


{% macro may_replace(found, model) -%}
    {{ return(
        var('replace_upstream') | string | lower == 'true'
        and model.config.meta.get('upstream_name')
        and found.engine in ('View', 'Dictionary')
    ) }}
{%- endmacro %}


{# Drops relations of ours that no model stands for any more: renamed in a new version, or absent while PII is off.
   Dictionaries first: what one reads cannot be dropped before it. #}
{% macro drop_stale_datasets() -%}
    {% if execute %}
        {% set kept, schemas = [], [] %}
        {% for node in graph.nodes.values() if node.resource_type == 'model' and node.config.materialized in ('view', 'parameterised_view', 'direct_dictionary') %}
            {% do kept.append("('" ~ node.schema ~ "', '" ~ node.alias ~ "')") %}
            {% if node.schema not in schemas %}{% do schemas.append(node.schema) %}{% endif %}
        {% endfor %}
        {% set stale = run_query(
            "select database, name, engine from system.tables where engine in ('View', 'Dictionary') and startsWith(comment, '" ~ dataset_mark()
            ~ "') and database in ('" ~ schemas | join("', '") ~ "') and (database, name) not in (" ~ kept | join(', ')
            ~ ") order by engine"
        ) %}
        {% for row in stale.rows %}
            {% set kind = row[2] | lower %}
            {% set relation = api.Relation.create(schema=row[0], identifier=row[1], type=kind, can_on_cluster=true) %}
            {% do run_query('drop ' ~ kind ~ ' if exists ' ~ relation ~ ' ' ~ on_cluster_clause(relation)) %}
            {{ log(relation ~ ' has no model any more and was dropped.', info=true) }}
        {% endfor %}
    {% endif %}
{%- endmacro %}
