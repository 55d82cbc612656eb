-- .. pii: How many learners share a trait; small numbers point at people.
-- .. pii_types: location, gender, birth_date, other
-- .. pii_retirement: consumer_api
{{ config(enabled=pii_enabled()) }}

with

enrollments as (

    select * from {{ ref('int_activity_by_learner') }}
    where isNotNull(enrolled_at)

),

profiles as (

    select * from {{ ref('stg_event_sink__user_profiles') }}

),

described as (

    select
        enrollments.course_key as course_key,
        enrollments.org as org,
        toStartOfMonth(assumeNotNull(enrollments.enrolled_at)) as month,
        if(profiles.country = '', 'Unknown', profiles.country) as country,
        if(profiles.state = '', 'Unknown', profiles.state) as state,
        transform(profiles.gender, ['f', 'm', 'o'], ['Female', 'Male', 'Other'], 'Unknown') as gender,
        transform(
            profiles.level_of_education,
            ['p', 'm', 'b', 'a', 'hs', 'jhs', 'el', 'none', 'other'],
            [
                'Doctorate', 'Master''s', 'Bachelor''s', 'Associate', 'Secondary', 'Junior secondary', 'Primary',
                'No formal education', 'Other'
            ],
            'Unknown'
        ) as level_of_education,
        toYear(month) - profiles.year_of_birth as age,
        multiIf(
            profiles.year_of_birth = 0 or age < 0 or age > 120, 'Unknown',
            age < 18, 'Under 18',
            age < 25, '18-24',
            age < 35, '25-34',
            age < 45, '35-44',
            age < 55, '45-54',
            '55 and over'
        ) as age_group
    from enrollments
    inner join profiles on enrollments.user_id = profiles.user_id

),

-- One row a learner and trait. States are counted within their country, or the numbers of countries would give
-- away what is hidden of states.
traits as (

    select
        course_key,
        org,
        month,
        arrayJoin([
            ('country', '', country),
            ('state', country, state),
            ('gender', '', gender),
            ('age_group', '', age_group),
            ('level_of_education', '', level_of_education)
        ]) as trait
    from described

),

counted as (

    select
        course_key,
        org,
        month,
        trait.1 as dimension,
        trait.2 as within,
        trait.3 as value,
        count() as learners
    from traits
    group by course_key, org, month, dimension, within, value

)

select * from counted
