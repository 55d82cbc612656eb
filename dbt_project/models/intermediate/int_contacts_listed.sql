-- .. pii: How to reach a learner.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

profiles as (

    select * from {{ ref('stg_event_sink__user_profiles') }}

),

-- One id a subject, or a subject with two would count twice.
external_ids as (

    select
        user_id,
        toNullable(max(stg.external_user_id)) as external_user_id
    from {{ ref('stg_event_sink__external_ids') }} as stg
    group by user_id

)

-- Left: where the LMS names its actors by e-mail address, nobody has an external id.
select
    profiles.user_id as user_id,
    external_ids.external_user_id as external_user_id,
    profiles.username as username,
    profiles.name as name,
    profiles.email as email
from profiles
left join external_ids on profiles.user_id = external_ids.user_id
