"""Faster kernels and weight layouts, applied to a finished model from outside."""
