-- .. pii: Every version of each profile, of retired subjects too.
-- .. pii_types: id, name, username, email_address, location, birth_date, gender, other
-- .. pii_retirement: consumer_api
with

source as (

    select * from {{ source('event_sink', 'user_profile') }}
    {{ exact_scan() }}

),

renamed as (

    select
        toInt64(user_id) as user_id,
        id as profile_id,
        username,
        name,
        email,
        country,
        state,
        gender,
        level_of_education,
        toUInt16OrZero(year_of_birth) as year_of_birth,
        time_last_dumped
    from source
    where user_id != 0

)

select * from renamed
