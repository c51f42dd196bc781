"""Empty: nothing here is transformed."""
