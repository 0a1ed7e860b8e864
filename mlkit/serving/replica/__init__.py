"""What runs inside a replica: versions of code, the front, stages, and what they record."""
