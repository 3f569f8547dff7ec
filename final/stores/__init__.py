"""Where jobs live: the ``Store`` protocol (``base.py``) and one file per engine."""

from final.stores.base import Changes, FailedAttempt, Recovered, Store
from final.stores.sqlite import SqliteStore

__all__ = ["Changes", "FailedAttempt", "Recovered", "SqliteStore", "Store"]
