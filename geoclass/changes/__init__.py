"""Change between dates: aligned results, its probability, the guard against drift, candidates and trends."""
