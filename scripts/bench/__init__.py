"""Measurements of what was made fast, against the usual way, side by side."""
