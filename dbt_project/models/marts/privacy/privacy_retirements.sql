-- .. no_pii: opaque user ids, states, times, and reasons that name tables.
with

retirements as (

    select * from {{ ref('stg_pii_ledger__retirements') }}

)

select
    subject,
    request,
    state,
    requested_at,
    toStartOfMonth(toDate(requested_at)) as requested_month,
    hidden_at,
    erased_at,
    days_open,
    reason
from retirements
