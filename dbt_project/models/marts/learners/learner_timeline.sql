-- .. pii: What a learner did, by day.
-- .. pii_types: id, name, username, email_address
-- .. pii_retirement: consumer_api
with

events as (

    select * from {{ ref('int_events_of_learners') }}

),

days as (

    select
        org,
        course_key,
        learner_id,
        toDate(emission_time) as day,
        any(events.user_id) as user_id,
        uniqExactIf(event_id, kind = 'visit') as page_visits,
        uniqExactIf(object_id, kind = 'problem') as problems_attempted,
        uniqExactIf(object_id, kind = 'problem' and is_success) as problems_solved,
        uniqExactIf(object_id, kind = 'video') as videos_watched,
        uniqExactIf(event_id, kind = 'post') as posts,
        argMaxOrNullIf(score, (emission_time, event_id), isNotNull(score)) as grade,
        arraySort(groupUniqArrayIf(kind, kind in ('registered', 'unregistered', 'passed', 'failed'))) as milestones
    from events
    group by org, course_key, learner_id, day

),

courses as (

    select * from {{ ref('stg_event_sink__course_overviews') }}

),

learners as (

    select * from {{ ref('int_learners_shown') }}

)

select
    days.org as org,
    days.course_key as course_key,
    courses.course_name as course_name,
    days.day as day,
    {{ learner_columns('days', 'learners') }},
    days.page_visits as page_visits,
    days.problems_attempted as problems_attempted,
    days.problems_solved as problems_solved,
    days.videos_watched as videos_watched,
    days.posts as posts,
    days.grade as grade,
    arrayStringConcat(days.milestones, ', ') as milestones
from days
left join courses on days.course_key = courses.course_key
inner join learners on days.user_id = learners.user_id
