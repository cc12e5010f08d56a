"""What turns texts into vectors: a model on this machine, hashes of words where there is none, a remote server."""
