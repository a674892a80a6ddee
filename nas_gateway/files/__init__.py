"""What files there are and what happens to them: the registry, the use-cases, the upload sessions."""
