"""How right a model or a map is, and how sure that figure is."""
