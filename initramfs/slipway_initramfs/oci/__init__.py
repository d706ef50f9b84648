"""Container images: references, manifests, registries, layouts and archives."""
