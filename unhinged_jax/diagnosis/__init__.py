"""`unhinged doctor`: whether this installation and this device compute correct numbers."""
