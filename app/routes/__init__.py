"""The service's routes: REST under /api/v1, operations, pages."""
