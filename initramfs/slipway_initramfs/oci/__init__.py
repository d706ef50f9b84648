"""Container images: references, manifests, and where their bytes come from."""
