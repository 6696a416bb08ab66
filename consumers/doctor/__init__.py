"""What in the settings and in the database will surprise, each with what to do."""
