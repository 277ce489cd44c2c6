"""BuildKit's protocol, as its clients speak it with an engine."""
