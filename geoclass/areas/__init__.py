"""Areas with intervals: sample designs, answers of reviewers, and design-based estimates."""
