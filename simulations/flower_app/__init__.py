"""simulations/flower_app."""
