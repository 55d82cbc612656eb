-- The key of the pseudonyms that datasets show while PII is off: derived from the install's secret, or random.
-- .. no_pii: key material; nobody but the sink and dbt reads it.

CREATE TABLE IF NOT EXISTS $pii_ledger.pseudonym_key $on_cluster
(
    inner_pad String COMMENT 'The key xor 0x36, in hexadecimal',
    outer_pad String COMMENT 'The key xor 0x5c, in hexadecimal',
    set_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ${replicated}ReplacingMergeTree(set_at)
ORDER BY tuple();
