"""The session process: its apps, rollouts, scaling, deletion, and its lease."""
