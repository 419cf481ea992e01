"""Ways to run workers: processes beside the service, tasks of a Ray cluster, or none of its own."""
