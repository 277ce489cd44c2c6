"""Images out of Dockerfiles: text, instructions, stages, steps. What a step does is done through ``steps.Workshop``."""
