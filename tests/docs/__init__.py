"""The documents are checked here: their links, to the line, and the code they show."""
