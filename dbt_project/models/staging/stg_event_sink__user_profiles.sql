-- .. pii: Who a learner is, the latest version only, without retired subjects.
-- .. pii_types: id, name, username, email_address, location, birth_date, gender, other
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('event_sink', 'user_profile') }}
    where {{ is_visible_subject('user_id') }}
    {{ exact_scan() }}

),

-- Not FINAL: upstream's table never replaces a version, and a unit test puts a CTE in the place of the table.
latest as (

    select * from source
    order by time_last_dumped desc, id desc
    limit 1 by user_id

),

renamed as (

    select
        toInt64(user_id) as user_id,
        username,
        name,
        email,
        country,
        state,
        gender,
        level_of_education,
        toUInt16OrZero(year_of_birth) as year_of_birth
    from latest
    where user_id != 0

)

select * from renamed
