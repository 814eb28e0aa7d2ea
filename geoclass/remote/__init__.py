"""Imagery over a network: its names, GDAL's options for it, failures and retries, and what is held of it in memory."""
