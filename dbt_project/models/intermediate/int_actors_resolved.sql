-- .. pii: Which subject an actor of an event is.
-- .. pii_types: id, email_address
-- .. pii_retirement: consumer_api
with

external_ids as (

    select * from {{ ref('stg_event_sink__external_ids') }}

),

profiles as (

    select * from {{ ref('stg_event_sink__user_profiles') }}

),

-- The three forms an LMS names an actor in. One column to join on, instead of an OR that would match twice. Profiles
-- are named once: ClickHouse plans a view anew wherever it is named, and planning is most of what a chart takes.
names as (

    select
        toString(external_user_id) as actor_id,
        user_id
    from external_ids
    union all
    select
        arrayJoin([concat('mailto:', email), lower(hex(SHA1(concat('mailto:', email))))]) as actor_id,
        user_id
    from profiles
    where email != ''

),

-- A name that would fit two people is nobody's.
resolved as (

    select
        actor_id,
        any(user_id) as user_id
    from names
    group by actor_id
    having min(names.user_id) = max(names.user_id)

)

select * from resolved
