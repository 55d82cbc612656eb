-- .. pii: Who an anonymous id is, under the name and columns of upstream's dictionary.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
{{ config(schema=env_var('ASPECTS_EVENT_SINK_DATABASE', 'event_sink')) }}

-- A view, where upstream has a dictionary: a dictionary serves its copy of a retired subject until it is reloaded.
with

learners as (

    select * from {{ ref('int_learners_joined') }}

)

select
    user_id,
    external_user_id,
    username,
    name,
    email
from learners
