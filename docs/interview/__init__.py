"""The design interview: sixteen topics in Markdown, and a quiz that asks them in the terminal."""
