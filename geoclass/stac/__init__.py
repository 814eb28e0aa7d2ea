"""STAC: lists of imagery in the cloud, searched for, signed, and read as scenes."""
