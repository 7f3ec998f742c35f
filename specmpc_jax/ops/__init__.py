"""Mathematics without networks: value distributions, Gaussians, running statistics."""
