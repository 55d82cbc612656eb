-- Whether joining the people made more enrolments than there were events.
{{ config(group='pii') }}

select joined.events as joined_events, plain.events as plain_events
from (select count() as events from {{ if_ours(ref('fact_enrollments')) }}) as joined
cross join (select count() as events from {{ ref('int_enrollments_typed') }}) as plain
where joined.events > plain.events
