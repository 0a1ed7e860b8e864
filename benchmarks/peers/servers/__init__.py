"""Servers that tag images, each a file as its users would write it."""
