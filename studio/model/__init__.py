"""Model: one forward pass of each network. State lives only in the KV cache and the VAE's stream."""
