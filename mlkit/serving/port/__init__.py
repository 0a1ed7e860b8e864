"""Everything that imports Ray or Ray Serve, or names something of theirs that is not public."""
