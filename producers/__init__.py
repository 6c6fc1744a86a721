"""The ways in: alerts become committed deliveries."""
