"""`make run`: the whole suite on one machine, every real server from a package."""
