"""The main job, once, on this machine: `make demo`."""
