"""Studies of many cases, kept in a directory."""
