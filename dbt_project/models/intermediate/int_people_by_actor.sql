-- .. pii: Who an actor of an event is.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

actors as (

    select * from {{ ref('int_actors_resolved') }}

),

contacts as (

    select * from {{ ref('int_contacts_listed') }}

)

select
    actors.actor_id as actor_id,
    contacts.username as username,
    contacts.name as name,
    contacts.email as email
from actors
inner join contacts on actors.user_id = contacts.user_id
