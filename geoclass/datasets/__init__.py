"""Labelled tiles: from imagery and reference labels, or from folders, to splits that can be trusted."""
