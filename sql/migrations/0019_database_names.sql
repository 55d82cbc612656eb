-- How the databases of this installation are called, so that a setting which names another one is noticed: nobody is in it,
-- and everything would be proved of it. The latest name of each counts; `init` writes it.
-- .. no_pii: names of databases.
CREATE TABLE IF NOT EXISTS $pii_ledger.database_names $on_cluster
(
    logical LowCardinality(String) COMMENT 'As the map calls it',
    actual String COMMENT 'As the settings called it',
    noted_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ${replicated}MergeTree
ORDER BY (logical, noted_at);
