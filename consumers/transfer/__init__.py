"""Taking the log out and in, and the past of other result backends in."""
