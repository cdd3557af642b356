"""A run on the disk: its folder, identity, record, pictures, trackers."""
