"""Train: everything that teaches a network, by the same classes and the same rollout that play it."""
