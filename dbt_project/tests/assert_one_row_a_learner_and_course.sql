-- Courses that show a learner more than once.
{{ config(group='pii') }}

with

learners as (

    select
        'enrolled_learners' as dataset,
        course_key,
        learner_key
    from {{ ref('enrolled_learners') }}
    union all
    select
        'learner_progress' as dataset,
        course_key,
        learner_key
    from {{ ref('learner_progress') }}
    union all
    select
        'learners_at_risk' as dataset,
        course_key,
        learner_key
    from {{ ref('learners_at_risk') }}

)

select
    dataset,
    course_key,
    count() as learners
from learners
group by dataset, course_key
having count() != uniqExact(learner_key)
