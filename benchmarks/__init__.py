"""Measurements of speed, growth and time to quality; not part of the package."""
