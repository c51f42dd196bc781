"""Where derivatives come from: JAX, PyTorch, a plain function, or several sources together."""
