-- Courses with a learner more than once. With PII off a row has no id to count by.
select
    course_key,
    count() as learners
from {{ ref('enrolled_learners') }}
where user_id != 0
group by course_key
having count() != uniqExact(user_id)
