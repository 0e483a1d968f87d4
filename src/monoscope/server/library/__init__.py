"""What stands below the paths that are served: found once, read when it is asked for."""
