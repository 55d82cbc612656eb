-- How far tables with statements were looked at for agents that are named by an address, so that only what is new is looked at.
-- .. no_pii: ids of tables, numbers of blocks.

CREATE TABLE IF NOT EXISTS $pii_ledger.named_tables $on_cluster
(
    table_id UUID COMMENT 'The uuid of the table in system.tables: a table that was made anew is another one',
    column_name String,
    partition_id String,
    max_block Int64 COMMENT 'Blocks of the partition up to this one were looked at',
    is_named UInt8 COMMENT '1 where one of them names an agent by an address: the table is then searched for everybody',
    at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ${replicated}MergeTree
ORDER BY (table_id, column_name, partition_id, max_block);
