-- .. pii: What somebody may see, for whoever knows their user name.
-- .. pii_types: other
-- .. pii_retirement: consumer_api
with

scopes as (

    -- The parser does not know ClickHouse's parameters: -- noqa: disable=PRS,LT02
    select * from {{ ref('int_viewers_scoped') }}
    where
        viewer = {{ viewer_id(viewer_parameter(), ref('stg_pii_ledger__pseudonym_keys')) }}
        and {{ viewer_parameter() }} != ''

)

select
    scope,
    org,
    course_key
from scopes
