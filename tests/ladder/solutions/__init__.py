"""A worked solution of each step: whole files. 1 is ``naive``, 7 is ``improved``, byte for byte."""
