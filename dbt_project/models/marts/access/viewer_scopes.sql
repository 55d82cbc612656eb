-- .. pii: What somebody may see, for whoever knows their user name.
-- .. pii_types: other
-- .. pii_retirement: consumer_api
with

scopes as (

    select * from {{ ref('int_viewers_scoped') }}
    where viewer = {{ viewer_id(viewer_parameter()) }} and {{ viewer_parameter() }} != ''

)

select
    scope,
    org,
    course_key
from scopes
