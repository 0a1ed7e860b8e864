"""What travels between callers, steps and replicas beside plain JSON: pictures, for now.

`image` holds the `Image` that steps annotate, `imagefile` reads and writes image files within
limits. Nothing here knows Ray or torch.
"""
