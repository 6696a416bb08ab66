"""The canvas that a task is part of, from any of its members."""
