"""The service under load: ``make load``. Read ``__main__.py`` first."""
