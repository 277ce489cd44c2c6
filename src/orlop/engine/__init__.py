"""Use cases: one service per noun, on top of the runtime, storage, network, image and volume packages."""
