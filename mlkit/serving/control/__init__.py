"""The session process: which apps there are, rollouts, scaling and deletion, and its lease."""
