"""HTTP: routes, request and response models, middleware."""
