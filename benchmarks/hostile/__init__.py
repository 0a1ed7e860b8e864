"""What hostile input does: URLs, images, and messages that are not HTTP."""
