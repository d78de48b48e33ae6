"""Every face for people at a terminal; a command is one call of the API or pure code."""
