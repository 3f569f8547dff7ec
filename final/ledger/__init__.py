"""What is accepted, and in which order it runs. Read ``base.py`` first, the seam."""
