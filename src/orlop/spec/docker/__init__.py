"""Documents of the Docker Engine API."""
