"""Kaizen: the machine-learning loop on the stack you already run.

Importing this package costs nothing but the standard library; see ``docs/architecture.md`` for the house.
"""

__version__ = "0.1.0"
