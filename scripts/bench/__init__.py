"""Timings of what a run computes, and of fast ways against the usual ones."""
