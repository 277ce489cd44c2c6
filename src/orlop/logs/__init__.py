"""Reading the logs that shims write."""
