-- .. pii: Who an anonymous id is, for dashboards to join events with.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

learners as (

    select * from {{ ref('int_learners_joined') }}

)

select
    external_user_id,
    username,
    name,
    email
from learners
