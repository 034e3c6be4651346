"""Many machines, with a Postgres between them."""
