"""Many processes: the mesh they form, how a dictionary is placed on it, and checkpoints that fit any mesh."""
