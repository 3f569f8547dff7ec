"""The notebooks are run here: pairs of a text (.md) and the same with its outputs (.ipynb)."""
