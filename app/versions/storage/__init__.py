"""Storage reads the models folder, adds versions to it, and signs versions and checks signatures."""
