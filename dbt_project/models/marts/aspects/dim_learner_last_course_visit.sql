-- .. pii: An anonymous id as the actor, or an e-mail address where the LMS is set so (XAPI_AGENT_IFI_TYPE).
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

visits as (

    select * from {{ ref('int_events_classified') }}
    where kind = 'visit'

)

select
    org,
    course_key,
    actor_id,
    max(visits.emission_time) as emission_time
from visits
group by org, course_key, actor_id
