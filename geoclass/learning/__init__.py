"""Heads on frozen features, fine-tuning, and the search among them."""
