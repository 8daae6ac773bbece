"""Kaizen's ports, filled with the tools of the field. Imported inside functions, each behind its extra."""
