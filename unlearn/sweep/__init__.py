"""Sweeps: which jobs a command line means, and what they will take."""
