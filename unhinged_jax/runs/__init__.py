"""A run as files, and the command that writes them, `unhinged simulate`."""
