"""geoclass: land-cover maps from aerial and satellite imagery."""

__version__ = "0.1.0"
