"""What makes a run: its folder, its processes, its place in a queue or a sweep, and how it stops."""
