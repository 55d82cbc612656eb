-- .. no_pii: counts and times.
with

held as (

    select count() as subjects_held from {{ ref('int_subjects_held') }}

),

retired as (

    select count() as retired_subjects from {{ ref('stg_pii_ledger__tombstones') }}

),

retirements as (

    select
        countIf(is_open) as open_retirements,
        minOrNullIf(requested_at, is_open) as oldest_open_requested_at
    from {{ ref('stg_pii_ledger__retirements') }}

),

-- Only verifications of everybody: one of a few says nothing of the others. Unknown is not zero.
entries as (

    select
        maxOrNullIf(at, action = 'synced') as last_synced_at,
        maxOrNullIf(at, is_of_everybody) as last_verified_at,
        argMaxOrNullIf(with_residue, at, is_of_everybody) as residue_found
    from (
        select
            at,
            action,
            action = 'verified' and JSONExtractBool(detail, 'everybody') as is_of_everybody,
            JSONExtractUInt(detail, 'with_residue') as with_residue
        from {{ ref('stg_pii_ledger__entries') }}
    )

)

select
    toBool({{ 'true' if pii_enabled() else 'false' }}) as pii_enabled,
    held.subjects_held as subjects_held,
    retirements.open_retirements as open_retirements,
    retirements.oldest_open_requested_at as oldest_open_requested_at,
    dateDiff('microsecond', retirements.oldest_open_requested_at, now64(6, 'UTC')) / 86400000000 as oldest_open_days,
    retired.retired_subjects as retired_subjects,
    entries.residue_found as residue_found,
    entries.last_verified_at as last_verified_at,
    entries.last_synced_at as last_synced_at
from held
cross join retired
cross join retirements
cross join entries
