"""A synthetic county, drawn from a seed, whose true land cover is known everywhere: for the demo, tests and benchmarks.

landscape (what lies where) → materials, streets, painting (what it looks like) → site (where the county stands) → make
(the files).
"""

from .make import County, make_county

__all__ = ["County", "make_county"]
