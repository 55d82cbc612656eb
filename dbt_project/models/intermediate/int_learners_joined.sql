-- .. pii: Who an actor of the events is, as upstream names actors.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

external_ids as (

    select * from {{ ref('stg_event_sink__external_ids') }}

),

profiles as (

    select
        *,
        count() over (partition by email) as users_of_email
    from {{ ref('stg_event_sink__user_profiles') }}

),

-- Inner: an id without a profile says nothing of a person.
by_id as (

    select
        profiles.user_id as user_id,
        toString(external_ids.external_user_id) as external_user_id,
        profiles.username as username,
        profiles.name as name,
        profiles.email as email
    from external_ids
    inner join profiles on external_ids.user_id = profiles.user_id

),

-- Where the LMS names its actors by e-mail address, nobody needs an id. An address of two people is nobody's.
by_address as (

    select
        user_id,
        concat('mailto:', email) as external_user_id,
        username,
        name,
        email
    from profiles
    where email != '' and users_of_email = 1 and user_id not in (select user_id from external_ids)

)

select * from by_id
union all
select * from by_address
