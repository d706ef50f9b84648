"""HTTP: routes, models of responses, middleware, connections."""
