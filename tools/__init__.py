"""Commands around the package that are not part of it: demo, training and evaluation."""
