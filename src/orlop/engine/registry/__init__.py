"""Images from and to registries: what the engine does with the distribution protocol."""
