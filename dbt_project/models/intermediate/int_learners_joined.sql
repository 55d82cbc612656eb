-- .. pii: Who an anonymous id is.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

external_ids as (

    select * from {{ ref('stg_event_sink__external_ids') }}

),

profiles as (

    select * from {{ ref('stg_event_sink__user_profiles') }}

)

-- Inner: an id without a profile says nothing of a person, and a profile without an id meets no event.
select
    profiles.user_id as user_id,
    external_ids.external_user_id as external_user_id,
    profiles.username as username,
    profiles.name as name,
    profiles.email as email
from external_ids
inner join profiles on external_ids.user_id = profiles.user_id
