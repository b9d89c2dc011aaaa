"""What LoaderService decides: plans, room, leases. Knows no wire, no database, and no torch."""
