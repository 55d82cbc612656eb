-- Numbers of learners that are smaller than the smallest cell.
{{ config(group='pii', enabled=pii_enabled()) }}

select
    dimension,
    count() as cells
from {{ ref('enrollment_demographics') }}
where learners < {{ smallest_cell() }}
group by dimension
