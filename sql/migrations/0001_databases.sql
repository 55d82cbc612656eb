-- The four databases. The ledger has one of its own so that a backup of the others can be restored without it.
-- .. no_pii: creates empty databases.

CREATE DATABASE IF NOT EXISTS $event_sink $on_cluster;

CREATE DATABASE IF NOT EXISTS $xapi $on_cluster;

CREATE DATABASE IF NOT EXISTS $reporting $on_cluster;

CREATE DATABASE IF NOT EXISTS $pii_ledger $on_cluster;
