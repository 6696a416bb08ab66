"""Sending recorded tasks again."""
