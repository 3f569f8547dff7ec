"""The ledger on PostgreSQL, for many processes on many hosts. Read ``ledger.py`` first."""
