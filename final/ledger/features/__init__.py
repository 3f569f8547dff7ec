"""What of a file goes beyond the basics: a file is one feature's tables. Read ``base.py`` first."""
