"""Messages and arrays as Flower carries them."""
