-- .. pii: Who an anonymous id is, under the name and columns of upstream's dictionary.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
{{ config(
    schema=env_var('ASPECTS_EVENT_SINK_DATABASE', 'event_sink'),
    materialized='direct_dictionary',
    primary_key=['user_id', 'external_user_id']
) }}

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
