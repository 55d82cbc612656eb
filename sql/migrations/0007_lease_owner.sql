-- Whom to look for when a lease is held longer than expected.
-- .. no_pii: names of hosts and numbers of processes.

ALTER TABLE $pii_ledger.leases $on_cluster
    ADD COLUMN IF NOT EXISTS owner LowCardinality(String) COMMENT 'The process that holds it, and its host';
