"""The design interview: its topics in Markdown, and a quiz that asks them in the terminal."""
