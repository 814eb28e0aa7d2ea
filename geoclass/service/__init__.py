"""The HTTP service: classes of pictures at once, and maps of scenes as jobs. Nothing of the core knows of it."""
