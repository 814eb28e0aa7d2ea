"""What a result becomes on disk. Each module takes Labels; none knows another, but for what they share in `style`."""
