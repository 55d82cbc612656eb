-- .. no_pii: numbers of learners, none below the smallest cell (see docs/datasets.md), and no identity.
{{ config(enabled=pii_enabled()) }}

-- What is hidden in a table (a course, month and dimension): every cell below the smallest size and, where there is
-- one, the smallest of the others with all its equals. What is left of a total is then at least one full cell, and
-- any hidden cell may be the one that was added. Hidden cells are not named either: one row says that there are some.
with

counted as (

    select * from {{ ref('int_demographics_counted') }}

),

courses as (

    select * from {{ ref('stg_event_sink__course_overviews') }}

),

-- Windows and not joins with itself: ClickHouse reads a CTE anew wherever it is named (its issue 72015).
measured as (

    select
        *,
        if(dimension = 'country', value, within) as country,
        countIf(learners < {{ smallest_cell() }})
            over (partition by course_key, month, dimension, within)
            as small_cells,
        minIf(learners, learners >= {{ smallest_cell() }})
            over (partition by course_key, month, dimension, within)
            as smallest_other
    from counted

),

flagged as (

    select
        *,
        small_cells > 0 and (learners < {{ smallest_cell() }} or learners = smallest_other) as is_hidden
    from measured

),

-- The states of a country add up to the country: where that is hidden, they are not even mentioned.
publishable as (

    select
        *,
        max(dimension = 'country' and is_hidden)
            over (partition by course_key, month, country, dimension in ('country', 'state'))
            as is_country_hidden
    from flagged

),

published as (

    select
        org,
        course_key,
        month,
        dimension,
        within,
        if(is_hidden, 'Too few to show', value) as label,
        if(max(is_hidden), null, max(publishable.learners)) as learners
    from publishable
    where dimension != 'state' or not is_country_hidden
    group by org, course_key, month, dimension, within, label

)

select
    published.org as org,
    published.course_key as course_key,
    courses.course_name as course_name,
    published.month as month,
    published.dimension as dimension,
    published.within as country,
    published.label as value,
    published.learners as learners
from published
left join courses on published.course_key = courses.course_key
