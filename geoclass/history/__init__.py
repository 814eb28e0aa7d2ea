"""What was trained: records of runs, MLflow, and names for bundles."""
