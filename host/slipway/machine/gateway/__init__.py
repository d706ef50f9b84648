"""Gateway: process that ends the network connections of one guest, and decides where they go."""
