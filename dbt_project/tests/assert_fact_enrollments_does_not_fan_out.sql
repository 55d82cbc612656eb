-- Whether joining the people made more enrolments than there were events.
{{ config(group='pii') }}

with

joined as (

    select count() as events from {{ if_ours(ref('fact_enrollments')) }}

),

plain as (

    select count() as events from {{ ref('int_enrollments_typed') }}

)

select
    joined.events as joined_events,
    plain.events as plain_events
from joined
cross join plain
where joined.events > plain.events
