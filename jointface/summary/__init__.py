"""What many runs came to: found on disk, grouped over seeds, as tables."""
