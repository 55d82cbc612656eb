-- Rows of subjects that are retired or restricted. There are none from the moment somebody asks for it.
{{ config(group='pii') }}

with

withheld as (

    select user_id from {{ ref('stg_pii_ledger__withheld') }}

),

shown as (

    select
        'user_pii' as dataset,
        toInt64(user_id) as user_id
    from {{ if_ours(ref('user_pii')) }}
    union all
    select
        'enrolled_learners' as dataset,
        user_id
    from {{ ref('enrolled_learners') }}
    union all
    select
        'learner_progress' as dataset,
        user_id
    from {{ ref('learner_progress') }}
    union all
    select
        'learner_timeline' as dataset,
        user_id
    from {{ ref('learner_timeline') }}
    union all
    select
        'learners_at_risk' as dataset,
        user_id
    from {{ ref('learners_at_risk') }}
    union all
    select
        'course_access' as dataset,
        user_id
    from {{ ref('stg_event_sink__course_access') }}
    union all
    select
        'course_access_keyed' as dataset,
        user_id
    from {{ ref('stg_event_sink__course_access_keyed') }}

)

select
    dataset,
    count() as learners
from shown
where user_id in (select user_id from withheld)
group by dataset
