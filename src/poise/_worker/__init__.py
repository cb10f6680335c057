"""What runs inside the actor."""
